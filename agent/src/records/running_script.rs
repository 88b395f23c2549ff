//! Reads and writes `script.json` in the agent's directory, the record of a script that runs or
//! that did not succeed. `status` shows the running script. If the agent is killed, the next agent
//! waits for the end of the running script. The module `unsettled` keeps the reason why a script
//! failed.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use deploy_store::disk::Dir;
use deploy_store::{Digest, Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const NAME: &CStr = c"script.json";
/// Name of the file until the file is complete.
const UNFINISHED: &CStr = c"script.json.new";
/// Maximum number of bytes that are read from the file.
const MOST: u64 = 4096;
/// Pause between two checks for the end of the script.
const PAUSE: Duration = Duration::from_millis(100);

/// A running script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Id of the configuration that the script deploys.
    pub id: String,
    /// Id of the script's process and of its process group. Earlier versions of the agent recorded
    /// 0 before the process started.
    pub pid: u32,
    /// Time of the script's start.
    pub since: Timestamp,
    /// Start time of the process, in clock ticks since the start of the system. No other process
    /// with the same id has the same start time.
    ticks: u64,
    /// The boot id of the system, from `/proc/sys/kernel/random/boot_id`.
    boot: String,
}

/// Records that the script was started. The agent does not sync the file, because after a power cut
/// no script runs.
pub fn note(dir: &Path, id: Digest, pid: u32) -> Result<()> {
    let json = Running::new(id, pid).to_json();
    let dir = Dir::open(dir)?;
    // The file is created each time, because an existing file may be a link that leads elsewhere.
    dir.remove_file(UNFINISHED)?;
    let file = dir.create_file(UNFINISHED, 0o644)?;
    (&file).write_all(&json).map_err(|err| Error::io("write", dir.path_of(UNFINISHED), err))?;
    dir.rename(UNFINISHED, &dir, NAME)
}

/// Removes the record after the script succeeded.
pub fn forget(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(NAME)
}

/// Id of the configuration whose script was started and has not succeeded.
pub fn noted_id(dir: &Path) -> Option<String> {
    noted(dir).map(|noted| noted.id)
}

/// The script that an agent of the directory `dir` started, if the script still runs.
pub fn read(dir: &Path) -> Option<Running> {
    noted(dir).filter(Running::is_alive)
}

/// The record, if the file belongs to root or to the agent's user. A file of another user does not
/// count, because that user could name any process in the file.
fn noted(dir: &Path) -> Option<Running> {
    let (file, stat) = Dir::open(dir).ok()?.open_file_and_stat(NAME).ok()?;
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut json = Vec::new();
    file.take(MOST).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Waits for the end of a script whose agent was killed. `-script-timeout` does not limit this
/// wait.
pub async fn wait_for_end(dir: &Path) {
    let mut logged = false;
    while let Some(Running { id, pid, since, .. }) = read(dir) {
        if !logged {
            tracing::warn!(
                event = "script_runs",
                id,
                pid,
                "the script that a killed agent started at {since:.0} for {id} still runs as pid \
                 {pid}: this agent is waiting for the script's end"
            );
            logged = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Running {
    fn new(id: Digest, pid: u32) -> Self {
        let ticks = process(pid).map_or(0, |process| process.ticks);
        Self { id: id.to_string(), pid, since: Timestamp::now(), ticks, boot: boot() }
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether the script still runs. Every script leads a process group, so a process that does
    /// not lead a group is not the script.
    fn is_alive(&self) -> bool {
        let Some(process) = process(self.pid).filter(|_| self.pid > 1) else { return false };
        process.ticks == self.ticks && process.group == self.pid && boot() == self.boot
    }
}

/// The boot id of the system, from `/proc/sys/kernel/random/boot_id`.
pub fn boot() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

/// A process that has not ended.
struct Process {
    group: u32,
    /// Start time of the process, in clock ticks since the start of the system.
    ticks: u64,
}

/// Reads the state, the process group and the start time from `/proc/PID/stat` (fields 3, 5 and 22,
/// see proc(5)).
fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the process comes before these fields, and may contain any characters.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, group, ticks) = (fields.first()?, fields.get(2)?, fields.get(19)?);
    let process = Process { group: group.parse().ok()?, ticks: ticks.parse().ok()? };
    (!matches!(*state, "Z" | "X")).then_some(process)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn script_counts_as_ended_even_if_its_pid_is_used_again() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, id) = (temp.path(), Digest::of(b"a"));
        assert!(read(dir).is_none() && noted_id(dir).is_none());
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        note(dir, id, child.id()).unwrap();
        let running = read(dir).unwrap();
        assert_eq!((&running.id, running.pid), (&id.to_string(), child.id()));
        let path = dir.join("script.json");
        let json = std::fs::read(&path).unwrap();
        let later = Running { ticks: running.ticks + 1, ..running.clone() };
        let before = Running { boot: "another".to_owned(), ..running };
        for other in [later, before] {
            std::fs::write(&path, other.to_json()).unwrap();
            assert!(read(dir).is_none() && noted_id(dir).is_some());
        }
        std::fs::write(&path, json).unwrap();
        assert!(read(dir).is_some());
        child.kill().unwrap();
        // A zombie counts as ended.
        while process(child.id()).is_some() {
            std::thread::sleep(PAUSE);
        }
        assert!(read(dir).is_none() && noted_id(dir).is_some());
        child.wait().unwrap();
        forget(dir).unwrap();
        assert!(noted_id(dir).is_none());
        note(dir, id, 0).unwrap();
        assert!(read(dir).is_none() && noted_id(dir) == Some(id.to_string()));
    }

    #[test]
    fn other_processes_are_not_mistaken_for_the_script() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, id) = (temp.path(), Digest::of(b"a"));
        // Process 1 is the system's first process. The child does not lead a process group.
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        for pid in [1, child.id()] {
            note(dir, id, pid).unwrap();
            assert_eq!(read(dir), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if rustix::process::geteuid().is_root() {
            let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
            note(dir, id, child.id()).unwrap();
            assert!(read(dir).is_some());
            std::os::unix::fs::chown(dir.join("script.json"), Some(65534), None).unwrap();
            assert!(read(dir).is_none() && noted_id(dir).is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
