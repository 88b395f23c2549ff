//! Decides which state file belongs to which agent's directory. Without `-state`, the state file is
//! usually in the agent's directory. If the state file is elsewhere, a second file beside the state
//! file records the agent's directory.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use deploy_store::{Configuration, replace_file};
use serde::{Deserialize, Serialize};

use crate::records::agent_report::Report;
use crate::records::state_file;

/// The name of the state file in the agent's directory. Earlier versions of the agent kept a state
/// file with this name in the working directory.
const NAME: &str = "state.json";
/// The file that records the agent's directory is named after the state file, with this suffix.
const SUFFIX: &str = ".dir";
/// Maximum number of bytes of the record that are read.
const MOST: u64 = 16 << 10;
/// Maximum number of directory entries beside a state file that [`near`] reads to find the agent
/// that uses the state file.
const MOST_NEAR: usize = 1000;
/// As with the state file, everybody may read this record.
const MODE: u32 = 0o644;

/// The error for a state file that belongs to another agent.
#[derive(Debug, thiserror::Error)]
#[error(
    "state file {} belongs to the agent of {}, not to the agent of {}; give this agent another state file with -state, or omit -state to use state.json in -dir{}",
    state.display(), other.display(), dir.display(), note(record.as_deref())
)]
pub struct Foreign {
    /// The state file.
    pub state: PathBuf,
    /// The directory of the other agent.
    pub other: PathBuf,
    /// The directory of this agent.
    pub dir: PathBuf,
    /// The record that names the other agent's directory, if any.
    pub record: Option<PathBuf>,
}

fn note(record: Option<&Path>) -> String {
    record.map_or_else(String::new, |record| {
        format!("; if that agent no longer exists, remove {}", record.display())
    })
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    dir: PathBuf,
}

/// Finds the state file of the agent of `dir` if `-state` is not given.
pub fn find(dir: &Path) -> PathBuf {
    let own = dir.join(NAME);
    let here = Path::new(NAME);
    let used = own.symlink_metadata().is_err() && here.is_file() && is_of(dir, here);
    if used { here.to_owned() } else { own }
}

/// A state file in the working directory that the agent does not use, because the file does not
/// belong to an agent of `dir`.
pub fn passed_over(dir: &Path) -> Option<PathBuf> {
    let here = PathBuf::from(NAME);
    let alone = dir.join(NAME).symlink_metadata().is_err() && here.is_file();
    (alone && !is_of(dir, &here)).then_some(here)
}

/// Whether an agent of `dir` wrote the state file. If there is no record, for example because the
/// Go agent wrote the state file, the result is true if `dir` has a root of the state file's
/// configuration.
fn is_of(dir: &Path, state: &Path) -> bool {
    if let Some(owner) = owner(state) {
        return is_same(&owner, dir);
    }
    if let Some(used) = used_by(dir) {
        return is_same_file(&used, state);
    }
    let deployed = state_file::peek(state).ok().flatten().as_ref().map(Configuration::id);
    deployed.is_some_and(|id| dir.join("unpacked").join(id.to_string()).is_dir())
}

/// Checks that no agent of another directory uses the state file.
pub fn check(dir: &Path, state: &Path) -> Result<(), Foreign> {
    let foreign = |other, record| {
        Err(Foreign { state: state.to_owned(), other, dir: dir.to_owned(), record })
    };
    if is_same(&parent(state), dir) {
        return Ok(());
    }
    if let Some(owner) = owner(state) {
        let uses = used_by(&owner).is_some_and(|used| is_same_file(&used, state));
        let other = uses && !is_same(&owner, dir);
        return if other { foreign(owner, Some(record_of(state))) } else { Ok(()) };
    }
    // Earlier versions of the agent recorded the state file only in their own directories.
    if is_of(dir, state) {
        return Ok(());
    }
    near(state).find(|other| is_of(other, state)).map_or(Ok(()), |other| foreign(other, None))
}

/// The directory of the state file, and the directories inside this directory.
fn near(state: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = parent(state);
    let entries = fs::read_dir(&parent).into_iter().flatten().flatten().take(MOST_NEAR);
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let below: Vec<PathBuf> = entries.filter(is_dir).map(|entry| entry.path()).collect();
    std::iter::once(parent).chain(below)
}

/// Records that the state file belongs to the agent of `dir`.
pub fn take(dir: &Path, state: &Path) -> deploy_store::Result<()> {
    if is_same(&parent(state), dir) || owner(state).is_some_and(|owner| is_same(&owner, dir)) {
        return Ok(());
    }
    let record = Record { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()) };
    let mut json = serde_json::to_vec(&record).unwrap_or_default();
    json.push(b'\n');
    replace_file(&record_of(state), &json, MODE)
}

fn record_of(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// The agent's directory that the record of the state file names, if there is a record.
fn owner(state: &Path) -> Option<PathBuf> {
    let mut json = Vec::new();
    let file = File::open(record_of(state)).ok()?;
    is_trusted(&file.metadata().ok()?).then_some(())?;
    file.take(MOST).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok().map(|Record { dir }| dir)
}

/// The state file that the agent of `dir` used last.
fn used_by(dir: &Path) -> Option<PathBuf> {
    is_trusted(&Report::metadata(dir)?).then(|| Report::read(dir).state)?
}

/// Whether the file belongs to root or to the agent's user. A file of another user is not trusted,
/// because that user must not influence state files in other directories.
fn is_trusted(meta: &fs::Metadata) -> bool {
    meta.is_file() && (meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw())
}

fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    one.file_name() == other.file_name() && is_same(&parent(one), &parent(other))
}

/// Whether both paths name the same directory. The directory need not exist yet.
fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        (Err(_), Err(_)) => {
            let whole = |path| std::path::absolute(path).ok();
            whole(one).is_some() && whole(one) == whole(other)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::agent_report::Reporter;

    #[test]
    fn state_file_elsewhere_belongs_to_one_directory() {
        let temp = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| temp.path().join(name));
        let state = temp.path().join("state.json");
        let runs = |dir: &Path, state: &Path| {
            fs::create_dir_all(dir).unwrap();
            check(dir, state)?;
            take(dir, state).unwrap();
            Reporter::new(dir).update(|report| report.state = Some(state.to_owned()));
            Ok::<(), Foreign>(())
        };
        // A state file that no agent uses belongs to the first agent that wants it.
        runs(&one, &state).unwrap();
        runs(&one, &state).unwrap();
        let err = runs(&two, &state).unwrap_err().to_string();
        for name in [&state, &one, &two] {
            assert!(err.contains(&name.display().to_string()), "{err}");
        }
        assert!(err.contains("state.json.dir"), "{err}");
        // The state file can change its owner if the old owner now uses another state file, or no
        // longer exists.
        runs(&one, &one.join("state.json")).unwrap();
        runs(&two, &state).unwrap();
        runs(&one, &state).unwrap_err();
        fs::remove_dir_all(&two).unwrap();
        runs(&one, &state).unwrap();
        // A state file in another agent's directory needs no record.
        runs(&one, &one.join("state.json")).unwrap();
        assert!(!one.join("state.json.dir").exists());
        let err = runs(&two, &one.join("state.json")).unwrap_err().to_string();
        assert!(err.contains("belongs to the agent of") && !err.contains(".dir"), "{err}");
        // Other names of the same directory make no difference.
        std::os::unix::fs::symlink("one", temp.path().join("other")).unwrap();
        runs(&temp.path().join("other"), &one.join("../one/state.json")).unwrap();
    }

    #[test]
    fn default_state_file_is_in_the_agents_directory() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(find(temp.path()), temp.path().join("state.json"));
        assert_eq!(passed_over(temp.path()), None);
    }
}
