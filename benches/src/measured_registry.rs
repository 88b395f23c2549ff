//! Connects to the registry that a benchmark measures, and reads the resources that the registry
//! uses. Several registries that share a catalogue count as one.

use std::path::PathBuf;
use std::time::Duration;

use deploy_wire::client::{Client, ClientError, Connect, HostKey, Keys};
use tokio::sync::mpsc;

const CHUNK: usize = 255 << 10;

/// A running registry, or several running registries.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The address of the registry, or the addresses of all registries, separated by commas.
    pub addr: String,
    /// The fingerprint of the registry's host key.
    pub fingerprint: String,
    /// The file with the key of an operator.
    pub operator: PathBuf,
    /// The file with the key of an agent.
    pub agent: PathBuf,
    /// The id of each registry's process.
    pub pids: Vec<u32>,
}

impl Registry {
    /// Reads the address, the fingerprint, both key files and the process id from a command line.
    /// Commas separate the addresses and the process ids of several registries.
    pub fn new([addr, fingerprint, operator, agent, pids]: [&str; 5]) -> Self {
        Self {
            addr: addr.to_owned(),
            fingerprint: fingerprint.to_owned(),
            operator: operator.into(),
            agent: agent.into(),
            pids: pids.split(',').map(|pid| pid.parse().expect("a process id")).collect(),
        }
    }

    /// The same registries, for a client that asks only one of them. `number` chooses the registry.
    pub fn only(&self, number: usize) -> Self {
        let count = self.addr.split(',').count();
        let addr = self.addr.split(',').nth(number % count).expect("there is an address");
        Self { addr: addr.to_owned(), ..self.clone() }
    }

    /// Connects as an agent if `user` is `deploy-agent`, and as an operator otherwise.
    pub async fn connect(&self, user: &str) -> Result<Client, ClientError> {
        let key = if user == "deploy-agent" { &self.agent } else { &self.operator };
        let connect = Connect {
            addr: self.addr.clone(),
            user: user.to_owned(),
            keys: Keys::File(key.clone()),
            host: HostKey::Fingerprint(self.fingerprint.clone()),
            declared: None,
            timeout: Duration::from_secs(60),
        };
        Client::connect(&connect).await
    }

    /// The processor time that the registries have used so far.
    pub fn cpu(&self) -> Duration {
        self.pids.iter().map(|pid| cpu(*pid)).sum()
    }

    /// The memory that the registries use now, and its peak, both in MiB.
    pub fn memory(&self) -> (u64, u64) {
        let each = self.pids.iter().map(|pid| memory(*pid));
        each.fold((0, 0), |(now, most), (more, peak)| (now + more, most + peak))
    }
}

fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
    let nanoseconds: u64 = tasks
        .filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    Duration::from_nanos(nanoseconds)
}

fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Runs a command with `input` as its standard input. Every exit code except 0 is an error.
pub async fn exec(client: &Client, line: &str, input: &[u8]) -> Result<(), String> {
    let answer = if input.is_empty() {
        client.exec(line).await
    } else {
        client.exec_with_input(line, input).await
    };
    let answer = answer.map_err(|err| format!("{line}: {err}"))?;
    if answer.code == 0 {
        return Ok(());
    }
    Err(format!("{line}: {} {}", answer.code, String::from_utf8_lossy(&answer.stderr)))
}

/// Uploads a blob.
pub async fn put(client: &Client, bytes: Vec<u8>) -> Result<(), String> {
    let (sender, chunks) = mpsc::channel(8);
    let feeding = tokio::spawn(async move {
        for chunk in bytes.chunks(CHUNK) {
            if sender.send(chunk.to_vec()).await.is_err() {
                break;
            }
        }
    });
    let put = client.put("blob", None, chunks, |_| {}).await.map_err(|err| err.to_string());
    feeding.abort();
    put
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The time in milliseconds that the given share of the sorted `times` does not exceed. It is 0 if
/// there are no times.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the result is an index of a list"
)]
pub fn quantile(times: &[Duration], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).map_or(0.0, |time| millis(*time))
}
