//! Puts load on a registry for `scripts/bench-load`. Many agents stay connected and poll from time
//! to time. At the same time, operators upload archives, bind them to versions, and replace
//! configurations, while downloads, `gc` and `verify` run. Then the program raises the rate of
//! polls until the registry is too slow. At the end, it measures uploads alone, and downloads alone.
//!
//! `deploy-load ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID AGENTS POLLS-A-SECOND SECONDS`
//!
//! Commas separate the addresses and the process ids of several registries. The load is then spread
//! over all of them.

#![allow(clippy::print_stdout, reason = "the program prints its results")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the results have three digits"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deploy_benches::measured_registry::{Registry, exec, millis, put, quantile};
use deploy_store::Digest;
use deploy_wire::client::Client;
use tokio::task::JoinSet;

/// The maximum number of simultaneous logins. The registry allows 50 connections without a login
/// from each address.
const LOGINS: usize = 40;
/// The size of the file in each archive, in bytes.
const BLOB: usize = 16 << 20;
/// A poll is late if it takes longer than this time.
const LATE: Duration = Duration::from_secs(1);
/// The rates of polls in the last measurements, as multiples of the requested rate. The program
/// stops at the first rate that is too high for the registry.
const BEYOND: [u32; 6] = [2, 5, 10, 20, 40, 80];
/// How many clients upload, or download, when nothing else runs.
const TRANSFERS: u32 = 6;

/// The times and errors of one kind of work.
#[derive(Default)]
struct Seen {
    times: Mutex<Vec<Duration>>,
    bytes: AtomicU64,
    errors: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, took: Duration, bytes: u64, result: Result<(), String>) {
        match result {
            Ok(()) => self.times.lock().unwrap().push(took),
            Err(err) => self.errors.lock().unwrap().push(err),
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Prints a row of the table. Returns the share of the measured times that were longer than
    /// [`LATE`], and the number of errors. `over` is the duration of the measurement.
    fn row(&self, what: &str, over: Duration) -> (f64, usize) {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        times.sort_unstable();
        let at = |share: f64| quantile(&times, share);
        let errors = std::mem::take(&mut *self.errors.lock().unwrap());
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let rate = times.len() as f64 / over.as_secs_f64();
        let megabytes = match bytes {
            0 => String::new(),
            bytes => format!("{:.0}", bytes as f64 / 1e6 / over.as_secs_f64()),
        };
        println!(
            "| {what} | {} | {rate:.1} | {megabytes} | {:.1} | {:.1} | {:.1} | {:.1} | {} |",
            times.len(),
            at(0.5),
            at(0.95),
            at(0.99),
            at(1.0),
            errors.len()
        );
        errors.iter().take(3).for_each(|err| println!("<!-- {what}: {err} -->"));
        let late = times.iter().filter(|time| **time > LATE).count();
        (late as f64 / times.len().max(1) as f64, errors.len())
    }
}

fn head(title: &str) {
    println!("\n{title}\n");
    println!("| | done | a second | MB/s | median ms | 95 % | 99 % | longest | errors |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
}

/// Makes a tar archive of one unique file.
fn archive(number: u64) -> Vec<u8> {
    let mut contents = vec![0; BLOB];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in contents.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(BLOB as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "file", contents.as_slice()).unwrap();
    archive.into_inner().unwrap()
}

/// Repeatedly uploads an archive, binds the archive to a version, and puts this version into a
/// configuration.
async fn upload(registry: Registry, number: u64, seen: Arc<Seen>, verbs: Arc<Seen>, end: Instant) {
    let client = registry.connect("operator").await.unwrap();
    let mut round = 0;
    while Instant::now() < end {
        let bytes = archive(number << 32 | round);
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let began = Instant::now();
        let put = put(&client, bytes).await;
        seen.note(began.elapsed(), size, put);
        let name = format!("load{number}");
        for line in [
            format!("addver -name {name} -version v{round} -hash {digest}"),
            format!("addconf -name {name} -layer {name}:v{round} -replace"),
            format!("showconf -name {name}"),
        ] {
            let began = Instant::now();
            let done = exec(&client, &line, &[]).await;
            verbs.note(began.elapsed(), 0, done);
        }
        round += 1;
    }
}

/// Downloads one blob repeatedly.
async fn download(registry: Registry, path: String, seen: Arc<Seen>, end: Instant) {
    let client = registry.connect("deploy-agent").await.unwrap();
    while Instant::now() < end {
        let (began, mut bytes) = (Instant::now(), 0);
        let got = client.get(&path, 0, |part| {
            bytes += part.len() as u64;
            Ok(())
        });
        let got = got.await.map_err(|err| err.to_string());
        seen.note(began.elapsed(), bytes, got);
    }
}

/// Uploads new archives repeatedly.
async fn upload_only(registry: Registry, number: u64, seen: Arc<Seen>, end: Instant) {
    let client = registry.connect("operator").await.unwrap();
    let mut round = 0;
    while Instant::now() < end {
        let bytes = archive(number << 32 | round);
        let size = bytes.len() as u64;
        let began = Instant::now();
        let put = put(&client, bytes).await;
        seen.note(began.elapsed(), size, put);
        round += 1;
    }
}

/// Measures uploads alone, and then downloads alone. Returns the number of errors.
async fn measure_transfers(registry: &Registry, path: &str, time: Duration) -> usize {
    let [uploads, downloads] = [(); 2].map(|()| Arc::new(Seen::default()));
    head("Transfers, alone:");
    let (began, mut working) = (Instant::now(), JoinSet::new());
    for number in 0..TRANSFERS {
        let (registry, seen) = (registry.only(number as usize), Arc::clone(&uploads));
        working.spawn(upload_only(registry, u64::from(number) + 10, seen, began + time));
    }
    working.join_all().await;
    let mut errors = uploads.row("uploads alone", began.elapsed()).1;
    let (began, mut working) = (Instant::now(), JoinSet::new());
    for number in 0..TRANSFERS {
        let (registry, seen) = (registry.only(number as usize), Arc::clone(&downloads));
        working.spawn(download(registry, path.to_owned(), seen, began + time));
    }
    working.join_all().await;
    errors += downloads.row("downloads alone", began.elapsed()).1;
    errors
}

/// Runs one verb repeatedly.
async fn repeat(registry: Registry, line: &'static str, seen: Arc<Seen>, end: Instant) {
    let client = registry.connect("operator").await.unwrap();
    while Instant::now() < end {
        let began = Instant::now();
        let done = exec(&client, line, &[]).await;
        seen.note(began.elapsed(), 0, done);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Polls the configuration `rate` times a second. Each poll uses the next connection in turn.
async fn poll(agents: &[Arc<Client>], rate: u32, seen: &Arc<Seen>, end: Instant) {
    let mut timer = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut asking = JoinSet::new();
    for agent in agents.iter().cycle() {
        let due = timer.tick().await;
        if Instant::now() >= end {
            break;
        }
        let (agent, seen) = (Arc::clone(agent), Arc::clone(seen));
        asking.spawn(async move {
            let asked = agent.read_small("configs/base.json", 1 << 20).await;
            let answer = match asked {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("no configuration".to_owned()),
                Err(err) => Err(err.to_string()),
            };
            // The measured time begins when the poll was due, so that a late start counts, too.
            seen.note(due.elapsed(), 0, answer);
        });
        while asking.try_join_next().is_some() {}
    }
    asking.join_all().await;
}

async fn connect_all(registry: &Registry, count: usize) -> Vec<Arc<Client>> {
    let (next, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let agents = Arc::new(Mutex::new(Vec::with_capacity(count)));
    let mut connecting = JoinSet::new();
    for _ in 0..LOGINS {
        let (registry, next, failed, agents) =
            (registry.clone(), Arc::clone(&next), Arc::clone(&failed), Arc::clone(&agents));
        connecting.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count && !failed.load(Ordering::Relaxed) {
                let number = agents.lock().unwrap().len();
                match registry.only(number).connect("deploy-agent").await {
                    Ok(client) => {
                        client.read_small("configs/base.json", 1 << 20).await.unwrap();
                        agents.lock().unwrap().push(Arc::new(client));
                    }
                    Err(err) => {
                        failed.store(true, Ordering::Relaxed);
                        panic!("login: {err}");
                    }
                }
            }
        });
    }
    connecting.join_all().await;
    std::mem::take(&mut *agents.lock().unwrap())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [addr, fingerprint, operator, agent, pid, agents, polls, seconds] = &words[..] else {
        panic!("ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID AGENTS POLLS SECONDS");
    };
    let registry = Registry::new([addr, fingerprint, operator, agent, pid]);
    let (agents, polls) = (agents.parse().unwrap(), polls.parse().unwrap());
    let time = Duration::from_secs(seconds.parse().unwrap());
    let threads = tokio::runtime::Runtime::new().unwrap();
    threads.block_on(measure(registry, agents, polls, time));
}

async fn measure(registry: Registry, count: usize, rate: u32, time: Duration) {
    let operator = registry.connect("operator").await.unwrap();
    let bytes = archive(1);
    let path = format!("files/{}", Digest::of(&bytes));
    let digest = Digest::of(&bytes);
    put(&operator, bytes).await.unwrap();
    exec(&operator, &format!("addver -name base -version v1 -hash {digest}"), &[]).await.unwrap();
    exec(&operator, "addconf -name base -layer base:v1", &[]).await.unwrap();
    let (before, _) = registry.memory();

    let (began, cpu) = (Instant::now(), registry.cpu());
    let agents = connect_all(&registry, count).await;
    let (took, used) = (began.elapsed(), registry.cpu().saturating_sub(cpu));
    let (after, _) = registry.memory();
    println!(
        "{} agents connected in {:.1} s: {:.1} ms of the registry's processor time each. Memory: {before} MiB \
         before, {after} MiB after, {} KiB each.",
        agents.len(),
        took.as_secs_f64(),
        millis(used) / agents.len() as f64,
        (after.saturating_sub(before)) * 1024 / agents.len() as u64
    );

    let polled = Arc::new(Seen::default());
    head("Polls alone:");
    let (began, cpu) = (Instant::now(), registry.cpu());
    poll(&agents, rate, &polled, began + time).await;
    let used = registry.cpu().saturating_sub(cpu);
    let asked = polled.times.lock().unwrap().len();
    let (_, mut errors) = polled.row("poll", began.elapsed());
    println!("\nProcessor time of the registry for a poll: {:.2} ms.", millis(used) / asked as f64);

    head("All together:");
    let [uploads, verbs, downloads, gc, verify] = [(); 5].map(|()| Arc::new(Seen::default()));
    let (began, cpu) = (Instant::now(), registry.cpu());
    let end = began + time;
    let mut working = JoinSet::new();
    for number in 0..2 {
        let (uploads, verbs) = (Arc::clone(&uploads), Arc::clone(&verbs));
        let registry = registry.only(number as usize);
        working.spawn(upload(registry, number + 2, uploads, verbs, end));
    }
    for number in 1..3 {
        working.spawn(download(registry.only(number), path.clone(), Arc::clone(&downloads), end));
    }
    working.spawn(repeat(registry.clone(), "gc", Arc::clone(&gc), end));
    working.spawn(repeat(registry.clone(), "verify", Arc::clone(&verify), end));
    poll(&agents, rate, &polled, end).await;
    working.join_all().await;
    let over = began.elapsed();
    for (what, seen) in [
        ("poll", &polled),
        ("upload of 16 MiB", &uploads),
        ("addver, addconf, showconf", &verbs),
        ("download of 16 MiB", &downloads),
        ("gc", &gc),
        ("verify", &verify),
    ] {
        errors += seen.row(what, over).1;
    }
    let (now, most) = registry.memory();
    let share = registry.cpu().saturating_sub(cpu).as_secs_f64() / over.as_secs_f64();
    println!(
        "\nThe registry used {share:.2} processors and {most} MiB at most ({now} at the end)."
    );

    head("More polls, alone:");
    for times in BEYOND {
        let began = Instant::now();
        poll(&agents, rate * times, &polled, began + time.min(Duration::from_secs(5))).await;
        let over = began.elapsed();
        let asked = polled.times.lock().unwrap().len() as f64 / over.as_secs_f64();
        let (late, failed) = polled.row(&format!("poll, {} a second", rate * times), over);
        if late > 0.01 || failed > 0 || asked < 0.9 * f64::from(rate * times) {
            break;
        }
    }
    errors += measure_transfers(&registry, &path, time).await;
    assert!(errors == 0, "{errors} errors");
}
