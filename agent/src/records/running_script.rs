//! The script that runs, or did not succeed, as `script.json` in the agent's directory: for
//! `status`, and for the agent that comes after one that was killed, which runs none beside it.
//! What such a script leaves is in `unsettled`.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use deploy_store::disk::Dir;
use deploy_store::{Digest, Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const NAME: &CStr = c"script.json";
/// Its name until it is whole.
const UNFINISHED: &CStr = c"script.json.new";
/// Bytes of it that are read at most.
const MOST: u64 = 4096;
/// Pause between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A script that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Id of what it deploys.
    pub id: String,
    /// Its process, and its process group; 0 for one that is still to be started.
    pub pid: u32,
    /// When it was started.
    pub since: Timestamp,
    /// The same in clock ticks since the system was started: no other process with that
    /// number has it.
    ticks: u64,
    /// That start of the system, as `/proc/sys/kernel/random/boot_id` names it.
    boot: String,
}

/// Takes note that the script was started. Not synced: after a power cut it does not run.
pub fn note(dir: &Path, id: Digest, pid: u32) -> Result<()> {
    let json = Running::new(id, pid).to_json();
    let dir = Dir::open(dir)?;
    // Made anew each time: what is there may be a link that leads elsewhere.
    dir.remove_file(UNFINISHED)?;
    let file = dir.create_file(UNFINISHED, 0o644)?;
    (&file).write_all(&json).map_err(|err| Error::io("write", dir.path_of(UNFINISHED), err))?;
    dir.rename(UNFINISHED, &dir, NAME)
}

/// Takes note that one succeeded.
pub fn forget(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(NAME)
}

/// Id of what a script was started for that has not succeeded.
pub fn noted_id(dir: &Path) -> Option<String> {
    noted(dir).map(|noted| noted.id)
}

/// The script that an agent of the directory `dir` started, if it runs still.
pub fn read(dir: &Path) -> Option<Running> {
    noted(dir).filter(Running::is_alive)
}

/// What stands there, if it is an agent's: who else may own the directory could name any
/// process.
fn noted(dir: &Path) -> Option<Running> {
    let (file, stat) = Dir::open(dir).ok()?.open_file_and_stat(NAME).ok()?;
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut json = Vec::new();
    file.take(MOST).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Waits for the end of a script whose agent was killed. It is not ended here, whatever
/// `-script-timeout` says.
pub async fn ended(dir: &Path) {
    let mut told = false;
    while let Some(Running { id, pid, since, .. }) = read(dir) {
        if !told {
            tracing::warn!(
                event = "script_runs",
                id,
                pid,
                "a script that was started at {since:.0} for {id}, and whose agent was killed, still runs as pid {pid}: waiting for its end"
            );
            told = true;
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

    /// Whether it runs: the leader of a process group, as every script is.
    fn is_alive(&self) -> bool {
        let Some(process) = process(self.pid).filter(|_| self.pid > 1) else { return false };
        process.ticks == self.ticks && process.group == self.pid && boot() == self.boot
    }
}

/// This start of the system, as `/proc/sys/kernel/random/boot_id` names it.
pub fn boot() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

/// A process that has not ended.
struct Process {
    group: u32,
    /// When it was started.
    ticks: u64,
}

/// Fields 3, 5 and 22 of `/proc/PID/stat`, see proc(5).
fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have anything in it.
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
    fn what_has_ended_runs_no_more_whoever_has_its_number() {
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
        // A zombie does nothing any more.
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
    fn no_process_is_believed_to_be_a_script_that_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, id) = (temp.path(), Digest::of(b"a"));
        // The first process, and one in another's group.
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
