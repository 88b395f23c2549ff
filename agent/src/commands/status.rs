//! Runs `status`, which describes the contents of an agent's directory. An agent may run at the
//! same time.

mod status_text;

use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use deploy_store::disk::Dir;
use deploy_store::layer::entry::EntryPath;
use deploy_store::{Configuration, Digest, Error, PrivateReason, escape_json};
use deploy_wire::exit;
use deploy_wire::fleet::Reason;
use jiff::Timestamp;
use serde::Serialize;

use crate::commands::print;
use crate::flags::Flags;
use crate::records::agent_report::{Placed, Report, Spare};
use crate::records::last_gate::LastGate;
use crate::records::report_file::ReportFile;
use crate::records::rollback_hold::RollbackHold;
use crate::records::running_script::{self, Running};
use crate::records::unproven::Unproven;
use crate::records::unsettled::{self, Unsettled};
use crate::records::{previous, state_file};
use crate::sandbox::Sandbox;
use crate::settings::Settings;

/// The result of `status`, as shown in JSON and as text.
#[derive(Debug, Serialize)]
pub struct Status {
    dir: PathBuf,
    state_file: PathBuf,
    configuration: Option<Deployed>,
    /// Why the state file cannot be read.
    state_error: Option<String>,
    agent_running: bool,
    agent_pid: Option<u32>,
    link: Option<String>,
    /// The sandbox of the threads that read archives.
    confinement: Option<Sandbox>,
    roots: Vec<Root>,
    /// Ids of roots that another program made, oldest first.
    taken_over: Vec<String>,
    /// The private paths. Each new root gets its own copy of the file at such a path, because that
    /// file was changed in a root or was open for writing.
    private: Vec<Private>,
    cache: Cache,
    /// The running script, if any.
    script: Option<Running>,
    last_error: Option<String>,
    /// How the files of the last root were placed.
    placed: Option<Placed>,
    /// The spare root; `None` if there is no spare, or if no agent runs.
    spare: Option<Spare>,
    hold: Option<RollbackHold>,
    /// Why the hold cannot be read.
    hold_error: Option<String>,
    /// The record of the last script, if that script did not succeed.
    unsettled: Option<Left>,
    /// The last health gate.
    health: Option<LastGate>,
    /// Number of quarantined files.
    quarantine: u64,
    /// The name of this host at the registry.
    host: Option<String>,
    /// Whether a watch is open. While a watch is open, changes arrive without a poll.
    watching: bool,
    /// The state of the reports to the registry.
    reports: Reports,
    /// Number of free bytes on the filesystem.
    free_bytes: u64,
    /// Number of bytes that the agent keeps free; 0 if it keeps none free.
    min_free: u64,
}

/// The state of the agent's reports to the registry.
#[derive(Debug, Serialize)]
struct Reports {
    /// The last report, if there is one.
    last: Option<LastReport>,
    /// Number of the last report that the registry has acknowledged.
    acknowledged: u64,
    /// Number of reports that the registry has not acknowledged.
    waiting: usize,
    /// Why the registry keeps no reports of this agent, if the registry refuses the reports.
    refused: Option<String>,
}

/// The last report to the registry.
#[derive(Debug, Serialize)]
struct LastReport {
    seq: u64,
    phase: &'static str,
    runs: Option<String>,
    wants: Option<String>,
    reason: Option<&'static str>,
    message: String,
}

/// The record of a script that did not succeed.
#[derive(Debug, Serialize)]
struct Left {
    #[serde(flatten)]
    unsettled: Unsettled,
    /// Id of the registry's configuration at the last poll.
    registry: Option<String>,
}

#[derive(Debug, Serialize)]
struct Deployed {
    name: String,
    id: String,
    modified: Timestamp,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize)]
struct Layer {
    name: String,
    version: String,
    hash: String,
    created: Timestamp,
}

#[derive(Debug, Serialize)]
struct Root {
    id: String,
    path: PathBuf,
    built: Option<Timestamp>,
    current: bool,
    previous: bool,
}

#[derive(Debug, Serialize)]
struct Private {
    path: String,
    /// The reason why the path is private, in one word.
    reason: &'static str,
    #[serde(skip)]
    text: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Cache {
    blobs: u64,
    blob_bytes: u64,
    partial_bytes: u64,
    layers: u64,
    objects: u64,
    object_bytes: u64,
    bytes: u64,
    /// Number of bytes of the files in all extracted layers together.
    layer_bytes: u64,
    /// `layer_bytes` divided by `object_bytes`; `None` if there are no bytes in objects.
    dedupe_ratio: Option<f64>,
}

/// Reads the agent's directory `dir` and its state file, without a lock.
pub fn read(dir: &Path, state_file: &Path) -> Result<Status, Error> {
    let meta = fs::metadata(dir).map_err(|err| Error::io("read agent directory", dir, err))?;
    let (configuration, state_error) = match state_file::peek(state_file) {
        Ok(state) => (state, None),
        Err(err) => (None, Some(err.to_string())),
    };
    let report = Report::read(dir);
    let current = configuration.as_ref().map(Configuration::id);
    let previous = previous::read(dir, current).map(|previous| previous.id().to_string());
    let agent_pid = holder(&meta);
    let id = configuration.as_ref().map(|state| state.id().to_string());
    let mut roots = roots(dir);
    for root in &mut roots {
        root.current = id.as_ref() == Some(&root.id);
        root.previous = previous.as_ref() == Some(&root.id) && !root.current;
    }
    // If the user may not read the directory, `status` shows no roots of other programs.
    let taken_over = deploy_store::taken_over(dir).unwrap_or_default();
    let (hold, hold_error) = match RollbackHold::read(dir) {
        Ok(hold) => (hold, None),
        Err(err) => (None, Some(err.to_string())),
    };
    let record = Unproven::read(dir);
    let hold_of_rollback = hold.as_ref().filter(|hold| !hold.is_unfinished(current));
    let health = report.health.map(|gate| gate.completed(hold_of_rollback, record.as_ref()));
    let script = running_script::read(dir);
    // While the first attempt to run the script has not ended, the server does not count as
    // unsettled.
    let unsettled = unsettled::read(dir).filter(|left| script.is_none() || left.failures > 0);
    let unsettled = unsettled.map(|left| Left {
        // If no agent runs, the time of the script's next run is unknown.
        unsettled: Unsettled { next: left.next.filter(|_| agent_pid.is_some()), ..left },
        registry: report.offered,
    });
    let (quarantine, _) = count(&dir.join("quarantine"), 9);
    let (free_bytes, _) = Dir::open(dir)?.free()?;
    Ok(Status {
        dir: dir.to_owned(),
        state_file: state_file.to_owned(),
        configuration: configuration.as_ref().map(Deployed::from),
        state_error,
        agent_running: agent_pid.is_some(),
        agent_pid,
        link: report.link,
        confinement: report.confinement,
        roots,
        taken_over: taken_over.iter().map(Digest::to_string).collect(),
        private: private(dir),
        cache: cache(dir),
        script,
        last_error: report.error,
        placed: report.placed,
        // `status` does not show the spare of an agent that has ended, because the next agent
        // removes that spare.
        spare: report.spare.filter(|_| agent_pid.is_some()),
        hold,
        hold_error,
        unsettled,
        health,
        quarantine,
        host: report.host,
        watching: report.watching && agent_pid.is_some(),
        reports: Reports::of(ReportFile::read(dir), report.reports_refused),
        free_bytes,
        min_free: report.min_free,
    })
}

impl Reports {
    fn of(file: ReportFile, refused: Option<String>) -> Self {
        let ReportFile { acknowledged, last, waiting, .. } = file;
        let last = last.map(|last| LastReport {
            seq: last.seq,
            phase: last.phase.word(),
            runs: last.runs.map(|id| id.to_string()),
            wants: last.wants.map(|id| id.to_string()),
            reason: last.reason.map(Reason::word),
            message: last.message,
        });
        Self { last, acknowledged, waiting: waiting.len(), refused }
    }
}

impl From<&Configuration> for Deployed {
    fn from(state: &Configuration) -> Self {
        let layer = |layer: &deploy_store::Layer| Layer {
            name: layer.component.as_str().to_owned(),
            version: layer.version.as_str().to_owned(),
            hash: layer.digest.to_string(),
            created: layer.created,
        };
        Self {
            name: state.name().as_str().to_owned(),
            id: state.id().to_string(),
            modified: state.modified(),
            layers: state.layers().iter().map(layer).collect(),
        }
    }
}

impl Status {
    /// Returns the status as one JSON document.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| escape_json(&json))
    }
}

/// The private paths. If the record of these paths cannot be read, the result is empty. In this
/// case, the agent detects the paths again.
fn private(dir: &Path) -> Vec<Private> {
    let paths = deploy_store::private_paths(dir).unwrap_or_default();
    let private = |(path, why): (EntryPath, PrivateReason)| Private {
        path: path.to_string(),
        reason: why.word(),
        text: why.text(),
    };
    paths.into_iter().map(private).collect()
}

/// The published roots with a record in `roots/`, newest first.
fn roots(dir: &Path) -> Vec<Root> {
    let mut roots: Vec<Root> = names(&dir.join("roots"))
        .filter_map(|name| name.parse::<Digest>().ok())
        .filter_map(|id| {
            let path = dir.join("unpacked").join(id.to_string());
            let marked = fs::metadata(dir.join("roots").join(id.to_string())).ok()?;
            let built = marked.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            let id = id.to_string();
            path.is_dir().then_some(Root { id, path, built, current: false, previous: false })
        })
        .collect();
    roots.sort_by_key(|root| std::cmp::Reverse(root.built));
    roots
}

/// Counts the files and bytes of the cache. If the cache changes during the count, the figures are
/// from different moments.
fn cache(dir: &Path) -> Cache {
    let (blobs, blob_bytes) = count(&dir.join("cache"), 0);
    let (_, partial_bytes) = count(&dir.join("partial"), 0);
    let (layers, index_bytes) = count(&dir.join("layers"), 0);
    let (objects, object_bytes) = count(&dir.join("objects"), 1);
    let bytes = blob_bytes + partial_bytes + index_bytes + object_bytes;
    // The index of a layer does not count if the index is damaged or is being removed.
    let layer_bytes = names(&dir.join("layers"))
        .filter_map(|name| name.parse::<Digest>().ok())
        .filter_map(|digest| deploy_store::layer_bytes(dir, digest).ok())
        .sum();
    #[allow(clippy::cast_precision_loss, reason = "status shows two digits")]
    let dedupe_ratio = (object_bytes > 0).then(|| layer_bytes as f64 / object_bytes as f64);
    Cache {
        blobs,
        blob_bytes,
        partial_bytes,
        layers,
        objects,
        object_bytes,
        bytes,
        layer_bytes,
        dedupe_ratio,
    }
}

/// Counts the regular files, and their bytes, in `dir` and in `depth` levels of directories below
/// `dir`.
fn count(dir: &Path, depth: u32) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_file() => {
                files += 1;
                bytes += meta.len();
            }
            Ok(meta) if meta.is_dir() && depth > 0 => {
                let below = count(&entry.path(), depth - 1);
                files += below.0;
                bytes += below.1;
            }
            _ => {}
        }
    }
    (files, bytes)
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Maximum number of times that `status` reads the list of locks. The kernel returns the list in
/// parts. If other locks are taken or released between two parts, a lock may be missing from the
/// list.
const LOCK_READS: usize = 5;

/// The id of the process that holds the agent's lock on the directory. The function does not try to
/// take the lock, because an agent that starts at the same time would then fail.
fn holder(dir: &fs::Metadata) -> Option<u32> {
    (0..LOCK_READS).find_map(|_| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let (pid, inode) = holder_of(line)?;
            (inode == dir.st_ino() && has_open(pid, dir)).then_some(pid)
        })
    })
}

/// The process id and the inode number of an exclusive flock, from a line of `/proc/locks` such as
/// `1: FLOCK ADVISORY WRITE 708 08:01:1234 0 EOF`, see proc(5).
fn holder_of(line: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
    Some((pid.parse().ok()?, file.rsplit(':').next()?.parse().ok()?))
}

/// Whether the process has the directory open. Only this check distinguishes inodes with the same
/// number on two filesystems. The function does not compare the device numbers in `/proc/locks`,
/// because on some filesystems these numbers differ from the device numbers of stat(2).
fn has_open(pid: u32, dir: &fs::Metadata) -> bool {
    // If the process belongs to another user, its open files cannot be listed. In this case, the
    // inode number alone decides.
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return true };
    open.filter_map(|fd| fs::metadata(fd.ok()?.path()).ok())
        .any(|meta| (meta.st_dev(), meta.st_ino()) == (dir.st_dev(), dir.st_ino()))
}

pub(super) fn show_status(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let status = read(&flags.dir, &Settings::of(flags).state)?;
    let text = if json { status.to_json()? + "\n" } else { status.to_text() };
    print(&text)?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use deploy_store::disk::Lock;

    use super::*;

    #[test]
    fn lines_of_proc_locks_are_parsed() {
        let line = "12: FLOCK  ADVISORY  WRITE 708 00:2a:1234 0 EOF";
        assert_eq!(holder_of(line), Some((708, 1234)));
        assert_eq!(holder_of("12: -> FLOCK  ADVISORY  WRITE 708 00:2a:1234 0 EOF"), None);
        assert_eq!(holder_of("1: POSIX  ADVISORY  WRITE 708 00:2a:1234 0 EOF"), None);
    }

    #[test]
    fn holder_of_the_directory_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let read = || read(temp.path(), &temp.path().join("state.json")).unwrap();
        assert!(!read().agent_running);
        let _lock = Lock::take(temp.path()).unwrap();
        assert_eq!(read().agent_pid, Some(std::process::id()));
    }

    #[test]
    fn damaged_state_file_is_reported_and_not_renamed() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("state.json");
        fs::write(&file, "{").unwrap();
        let status = read(temp.path(), &file).unwrap();
        assert!(status.to_text().starts_with("configuration  unknown: configuration"));
        assert!(status.state_error.is_some() && file.exists());
    }
}
