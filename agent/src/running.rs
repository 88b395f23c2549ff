//! The script that runs, as `script.json` in the agent's directory: for `status`, and for the
//! agent that comes after one that was killed, which runs none beside it.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use deploy_store::disk::Dir;
use deploy_store::{Digest, Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cycle::Agent;

const NAME: &CStr = c"script.json";
/// Bytes of it that are read at most.
const MOST: u64 = 4096;
/// Pause between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A script that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Id of what it deploys.
    pub id: String,
    /// Its process, and its process group.
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
    let Some(ticks) = ticks(pid) else { return Ok(()) };
    let (id, since, boot) = (id.to_string(), Timestamp::now(), boot());
    let running = Running { id, pid, since, ticks, boot };
    let json = serde_json::to_vec(&running).unwrap_or_default();
    let dir = Dir::open(dir)?;
    // Made anew each time: what is there may be a link that leads elsewhere.
    dir.remove_file(NAME)?;
    let file = dir.create_file(NAME, 0o644)?;
    (&file).write_all(&json).map_err(|err| Error::io("write", dir.path_of(NAME), err))
}

/// Takes note that it has ended.
pub fn forget(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(NAME)
}

/// The script that an agent of the directory `dir` started, if it runs still.
pub fn read(dir: &Path) -> Option<Running> {
    let file = Dir::open(dir).ok()?.open_file(NAME).ok()?;
    let mut json = Vec::new();
    file.take(MOST).read_to_end(&mut json).ok()?;
    let running: Running = serde_json::from_slice(&json).ok()?;
    let same = ticks(running.pid) == Some(running.ticks) && boot() == running.boot;
    same.then_some(running)
}

/// Waits for the end of a script whose agent was killed. It is not ended here, whatever
/// `-script-timeout` says: who owns the directory could name any process.
pub async fn ended(agent: &Agent) {
    let mut told = false;
    while let Some(Running { id, pid, since, .. }) = read(&agent.dir) {
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

fn boot() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

/// When a process that has not ended was started: field 22 of `/proc/PID/stat`, see proc(5).
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_has_ended_runs_no_more_whoever_has_its_number() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, id) = (temp.path(), Digest::of(b"a"));
        assert_eq!(read(dir), None);
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        note(dir, id, child.id()).unwrap();
        let running = read(dir).unwrap();
        assert_eq!((&running.id, running.pid), (&id.to_string(), child.id()));
        let path = dir.join("script.json");
        let json = std::fs::read(&path).unwrap();
        let later = Running { ticks: running.ticks + 1, ..running.clone() };
        let before = Running { boot: "another".to_owned(), ..running };
        for other in [later, before] {
            std::fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
            assert_eq!(read(dir), None);
        }
        std::fs::write(&path, json).unwrap();
        assert!(read(dir).is_some());
        child.kill().unwrap();
        // A zombie does nothing any more.
        while ticks(child.id()).is_some() {
            std::thread::sleep(PAUSE);
        }
        assert_eq!(read(dir), None);
        child.wait().unwrap();
        note(dir, id, std::process::id()).unwrap();
        assert!(read(dir).is_some());
        forget(dir).unwrap();
        assert_eq!(read(dir), None);
    }
}
