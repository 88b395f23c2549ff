//! Tests of several running registries on one catalogue and one bucket, with stock ssh as operators
//! and agents, and with kills.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use deploy_registry::catalog::{Catalog, ObjectState};
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_store::Meter;
use deploy_testing::{FaultProxy, server_bucket, server_catalogue};
use serde_json::Value;

use crate::bench::bucket;
use crate::rig::{Rig, both, wait_until};
use crate::watcher::Watch;

const HOUR: Duration = Duration::from_secs(3600);

/// A second rig with the keys of `rig`.
pub fn like(rig: &Rig) -> Rig {
    let other = Rig::idle();
    for name in ["op", "srv", "other"] {
        for name in [name.to_owned(), format!("{name}.pub")] {
            fs::copy(rig.path(&name), other.path(&name)).unwrap();
        }
    }
    for name in ["op.keys", "srv.keys"] {
        fs::copy(rig.path(name), other.path(name)).unwrap();
    }
    other
}

pub fn copy_host_key(from: &Rig, to: &Rig) {
    fs::create_dir_all(to.path("reg")).unwrap();
    fs::copy(from.path("reg/host_key"), to.path("reg/host_key")).unwrap();
}

fn flags(catalogue: &str, bucket: &str, more: &[&str]) -> Vec<String> {
    let own = ["-catalogue", catalogue, "-bucket", bucket, "-linger", "0s"];
    own.iter().chain(more).map(|&flag| flag.to_owned()).collect()
}

/// Two running registries; `None` if there is no S3 server or no database server.
fn two(more: &[&str]) -> Option<(Rig, Rig)> {
    let mut first = Rig::idle();
    let place = first.path("shared");
    let (bucket, catalogue) = (server_bucket(&place)?, server_catalogue(&place)?);
    let mut second = like(&first);
    first.flags = flags(&catalogue, &bucket, more);
    second.flags.clone_from(&first.flags);
    first.run();
    copy_host_key(&first, &second);
    second.run();
    Some((first, second))
}

/// Adds three versions of a component, and the configuration `web` with the first of them.
fn fill(rig: &Rig) {
    for version in ["v1", "v2", "v3"] {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name web -layer code:v1");
}

fn change(rig: &Rig, version: &str) {
    rig.ok(&format!("changeconf -name web -component code -version {version}"));
}

fn document(rig: &Rig, line: &str) -> Value {
    serde_json::from_str(&rig.ok(line)).unwrap()
}

fn version(offer: &Value) -> String {
    let document: Value = serde_json::from_str(offer["document"].as_str().unwrap()).unwrap();
    document["Layers"][0]["Version"].as_str().unwrap().to_owned()
}

/// What an agent reads that only polls.
fn polled(rig: &Rig) -> String {
    let output = rig.sftp("srv", "deploy-agent", "get configs/web.json polled.json");
    assert!(output.status.success(), "{}", both(&output));
    fs::read_to_string(rig.path("polled.json")).unwrap()
}

#[test]
fn change_at_one_registry_reaches_polls_and_watches_of_another() {
    let Some((first, second)) = two(&[]) else { return };
    fill(&first);
    assert!(polled(&second).contains("\"v1\""));
    let watch = Watch::begin(&second, "srv", "web", "web-01", "a1");
    assert_eq!(version(&watch.offer()), "v1");
    let mut fastest = Duration::MAX;
    for n in 0..8 {
        let new = ["v2", "v3"][n % 2];
        let began = Instant::now();
        change(&first, new);
        let acknowledged = Instant::now();
        let offer = watch.offer();
        let late = acknowledged.elapsed();
        assert_eq!(version(&offer), new);
        assert!(began.elapsed() < Duration::from_secs(5));
        fastest = fastest.min(late);
        assert!(polled(&second).contains(&format!("\"{new}\"")));
    }
    assert!(fastest < Duration::from_millis(100), "the fastest offer took {fastest:?}");
}

#[test]
fn report_at_one_registry_ends_a_wait_at_another() {
    let Some((first, second)) = two(&[]) else { return };
    fill(&second);
    let mut watch = Watch::begin(&first, "srv", "web", "web-01", "a1");
    let offer = watch.offer();
    let mut command = second.client("ssh", "op");
    command.args(["me@127.0.0.1", "wait -name web -timeout 60s"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    watch.healthy(1, &offer);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    // Without a notice, the wait would look again only after five seconds.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn agent_of_another_registry_is_connected_until_that_registry_is_killed() {
    let Some((mut first, second)) = two(&[]) else { return };
    fill(&second);
    let mut watch = Watch::begin(&first, "srv", "web", "web-01", "a1");
    let offer = watch.offer();
    watch.healthy(1, &offer);
    let connected = || document(&second, "fleet -json")["hosts"][0]["connected"].clone();
    wait_until("the host is connected", || connected() == true);
    // An operator at the second registry reaches the agent.
    second.ok("host hold web-01 -m stop");
    assert_eq!(watch.offer()["held"], "stop");
    second.ok("host release web-01");
    assert_eq!(watch.offer().get("held"), None);
    first.stop("-KILL");
    wait_until("the host is away", || connected() == false);
    let moved = Watch::begin(&second, "srv", "web", "web-01", "a1");
    assert_eq!(moved.next()["last_seq"], 1, "the sequence of reports continues");
    assert_eq!(connected(), true);
    assert_eq!(document(&second, "fleet -json")["hosts"][0]["duplicate"], false);
}

#[test]
fn rollout_goes_on_when_its_registry_is_killed() {
    let Some((mut first, second)) = two(&[]) else { return };
    fill(&first);
    let mut watches: Vec<Watch> = (0..4)
        .map(|n| Watch::begin(&second, "srv", "web", &format!("web-{n:02}"), &format!("a{n}")))
        .collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    let connected = || {
        let fleet = document(&first, "fleet -json");
        let hosts = fleet["hosts"].as_array().unwrap();
        hosts.iter().filter(|host| host["connected"] == true).count()
    };
    wait_until("the first registry knows the agents", || connected() == 4);
    first.ok("rollout start -name web -layer code:v2 -waves 1,2,100% -soak 200ms");
    first.stop("-KILL");
    let mut done = [false; 4];
    wait_until("all hosts have the target", || {
        for (watch, done) in watches.iter_mut().zip(&mut done) {
            let Ok(line) = watch.lines.try_recv() else { continue };
            if line.get("offer").is_some_and(|offer| version(offer) == "v2") {
                let offer = line["offer"].clone();
                watch.healthy(2, &offer);
                *done = true;
            }
        }
        done == [true; 4]
    });
    wait_until("the rollout succeeds", || {
        document(&second, "rollout status -name web -json")["status"] == "succeeded"
    });
    let events = second.ok("events -name web");
    let waves = events.lines().filter(|line| line.contains("rollout_wave")).count();
    assert_eq!(waves, 3, "{events}");
}

#[test]
fn two_registries_open_each_wave_once() {
    let Some((first, second)) = two(&[]) else { return };
    fill(&first);
    let mut watches: Vec<Watch> = (0..4)
        .map(|n| {
            let rig = if n % 2 == 0 { &first } else { &second };
            Watch::begin(rig, "srv", "web", &format!("web-{n:02}"), &format!("a{n}"))
        })
        .collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    second.ok("rollout start -name web -layer code:v2 -waves 1,2,100% -soak 100ms");
    let mut done = [false; 4];
    wait_until("all hosts have the target", || {
        for (watch, done) in watches.iter_mut().zip(&mut done) {
            let Ok(line) = watch.lines.try_recv() else { continue };
            if line.get("offer").is_some_and(|offer| version(offer) == "v2") {
                let offer = line["offer"].clone();
                watch.healthy(2, &offer);
                *done = true;
            }
        }
        done == [true; 4]
    });
    first.ok("wait -name web -timeout 20s");
    let events = second.ok("events -name web");
    let waves = events.lines().filter(|line| line.contains("rollout_wave")).count();
    assert_eq!(waves, 3, "{events}");
}

/// A catalogue that looks at the objects.
struct Observer(tokio::runtime::Runtime, Catalog);

impl Observer {
    fn new(catalogue: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let opened = runtime.block_on(Catalog::open_shared(catalogue, 5, &Meter::default()));
        Self(runtime, opened.unwrap())
    }

    fn states(&self) -> Vec<(ObjectState, u64)> {
        let counts = self.0.block_on(self.1.object_counts()).unwrap();
        counts.into_iter().map(|(state, count)| (state, count.blobs)).collect()
    }
}

fn sweep(dir: &Path, catalogue: &str, address: &str, abandon: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut bucket = bucket(address, Duration::ZERO);
        bucket.abandon = abandon;
        let place = Place {
            dir: dir.to_owned(),
            catalogue: Some(catalogue.to_owned()),
            bucket: Some(bucket),
        };
        let registry = Registry::open(place, Settings::default()).await.unwrap();
        registry.sweep_objects().await.unwrap();
        registry.catalog.close().await;
    });
}

#[test]
fn object_of_a_killed_registry_is_kept_until_the_registry_is_silent_for_long() {
    let mut rig = Rig::idle();
    let place = rig.path("shared");
    let (Some(address), Some(catalogue)) = (server_bucket(&place), server_catalogue(&place)) else {
        return;
    };
    let target = address.split_once("http://").unwrap().1.split('&').next().unwrap();
    let proxy = FaultProxy::start(target, 1);
    let through = address.replace(&format!("http://{target}"), &proxy.url());
    rig.flags = flags(&catalogue, &through, &[]);
    rig.run();
    rig.archive("big", "7".repeat(1 << 20).as_bytes());
    let observer = Observer::new(&catalogue);
    proxy.set_away(true);
    fs::write(rig.path("batch"), "put big\n").unwrap();
    let mut command = rig.client("sftp", "op");
    command.args(["-q", "-b", "batch", "me@127.0.0.1"]);
    let mut upload = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The registry repeats its requests for some time before it gives up.
    wait_until("the object is being written", || observer.states() == [(ObjectState::Writing, 1)]);
    rig.stop("-KILL");
    upload.wait().unwrap();
    sweep(&rig.path("second"), &catalogue, &address, HOUR);
    assert_eq!(observer.states(), [(ObjectState::Writing, 1)]);
    sweep(&rig.path("second"), &catalogue, &address, Duration::ZERO);
    assert_eq!(observer.states(), []);
}

#[test]
fn other_host_key_is_refused_and_stat_shows_the_registries() {
    let Some((first, mut second)) = two(&[]) else { return };
    let mut third = like(&first);
    third.flags.clone_from(&first.flags);
    assert!(!third.try_run_under(&[]), "a registry without the host key runs");
    assert!(!third.path("reg/host_key").exists());
    second.authorize("srv.keys", "# other keys\n", &["srv", "other"]);
    wait_until("the drift is shown", || {
        let stat = document(&first, "stat -registries -json");
        let all = stat["registries"].as_array().unwrap();
        let running: Vec<&Value> = all.iter().filter(|one| one["state"] == "running").collect();
        running.len() == 2
            && running.iter().any(|one| one["own"] == true && one["drift"] == serde_json::json!([]))
            && running.iter().any(|one| one["drift"] == serde_json::json!(["agents"]))
    });
    let text = first.ok("stat -registries");
    let port = format!(":{}", second.port());
    assert!(text.contains(&port) && text.contains("other keys of agents"), "{text}");
    second.stop("-TERM");
    let text = first.ok("stat -registries");
    assert!(text.lines().any(|line| line.contains(&port) && line.contains("stopped")), "{text}");
}

#[test]
fn event_program_runs_once_for_each_event() {
    let dir = tempfile::tempdir().unwrap();
    let (program, seen) = (dir.path().join("program"), dir.path().join("seen"));
    let script = format!("#!/bin/sh\necho \"$EVENT_NUMBER\" >> {}\n", seen.display());
    fs::write(&program, script).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&program).status().unwrap();
    let Some((mut first, second)) = two(&["-on-event", program.to_str().unwrap()]) else { return };
    fill(&first);
    for n in 0..4 {
        change(if n % 2 == 0 { &first } else { &second }, ["v2", "v3"][n % 2]);
    }
    let numbers = || {
        let text = fs::read_to_string(&seen).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect::<Vec<u64>>()
    };
    wait_until("the program ran for each event", || numbers().len() >= 5);
    assert_eq!(numbers(), [1, 2, 3, 4, 5]);
    first.stop("-TERM");
    change(&second, "v1");
    wait_until("the other registry runs the program", || numbers().len() >= 6);
    assert_eq!(numbers(), [1, 2, 3, 4, 5, 6]);
}
