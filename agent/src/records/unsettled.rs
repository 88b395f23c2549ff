//! Reads and writes `unsettled.json` in the agent's directory, which records the last script if
//! that script did not succeed. A server is unsettled from the start of a script until a script
//! succeeds, because the effects of a failed or interrupted script are unknown. While a server is
//! unsettled, no configuration counts as up to date.

use std::ffi::CStr;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Error, Result, replace_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::running_script;

const NAME: &CStr = c"unsettled.json";
/// The record of a script that is about to start, see [`intend`].
const INTENDED: &CStr = c"unsettled.next";
/// As with the state file, everybody may read this record.
const MODE: u32 = 0o644;
/// Maximum number of bytes that are read from a record.
const MOST: u64 = 16 << 10;
/// Maximum number of characters of the script's error that the record keeps.
const MOST_OF_ERROR: usize = 1000;

/// The record of the last script. The record exists until a script succeeds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsettled {
    /// Id of the configuration for which the script was started.
    pub id: String,
    /// Id of the old configuration that the script got as `OLDID`, if any.
    pub old_id: Option<String>,
    /// Time of the first start of a script after the last success.
    pub since: Timestamp,
    /// Number of failed runs of a script since the last success.
    pub failures: u32,
    /// Whether the script ran for a rollback.
    pub rollback: bool,
    /// Time of the last failure; `None` if the result is unknown.
    pub failed: Option<Timestamp>,
    /// Why the script failed.
    pub error: Option<String>,
    /// The exit code of the script that failed, if the script exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Time of the script's next run, if that run is planned.
    pub next: Option<Timestamp>,
}

impl Unsettled {
    /// Id of the configuration for which the script was started, if the id is known.
    pub fn target(&self) -> Option<Digest> {
        self.id.parse().ok()
    }

    /// Id of the old configuration that the script got as `OLDID`, if the id is known.
    fn old(&self) -> Option<Digest> {
        self.old_id.as_ref()?.parse().ok()
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Returns a text for people that describes what happened.
    pub fn to_text(&self) -> String {
        let times = match self.failures {
            0 | 1 => String::new(),
            n => format!(", {n} times since {:.0}", self.since),
        };
        match (&self.failed, &self.error) {
            (Some(at), Some(error)) => format!("script failed at {at:.0}{times}: {error}"),
            _ => format!("script was started at {:.0}, and its result is unknown", self.since),
        }
    }
}

/// The old configuration to pass to a script that deploys `new` while `deployed` is deployed. The
/// old configuration is the one whose service may run now.
pub fn old_for_script(
    left: Option<&Unsettled>,
    deployed: Option<Digest>,
    new: Digest,
) -> Option<Digest> {
    let last = left.and_then(Unsettled::target);
    let old = match last {
        // The script runs again for `new`.
        Some(last) if last == new => left.and_then(Unsettled::old).or(deployed),
        // The script failed for `last`, and now runs for the configuration that is still deployed.
        Some(last) if deployed == Some(new) => Some(last),
        _ => deployed,
    };
    // A script that removes the old root must not remove the new root.
    old.filter(|old| *old != new)
}

/// The content of the file [`INTENDED`]: the record of a script that is about to start.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Intended {
    /// The boot id. With another boot id the record counts as a started script, because after a
    /// restart of the system it is unknown whether the script was started.
    boot: String,
    #[serde(flatten)]
    what: Unsettled,
}

/// The record in `dir`; `None` if the last script succeeded.
pub fn read(dir: &Path) -> Option<Unsettled> {
    match read_json(dir, NAME) {
        Err(err) if err.is_not_found() => {}
        Err(_) => return Some(Unsettled::default()),
        // A damaged record also means that the server is unsettled.
        Ok(json) => return Some(serde_json::from_slice(&json).unwrap_or_default()),
    }
    if let Some(intended) = intended(dir).filter(|it| it.boot != running_script::boot()) {
        return Some(intended.what);
    }
    // Earlier versions of the agent wrote only the record of the running script.
    let id = running_script::noted_id(dir)?;
    Some(Unsettled { id, since: Timestamp::now(), ..Unsettled::default() })
}

/// The recorded intention to start a script, if any. A damaged record counts as an intention
/// without a boot id.
fn intended(dir: &Path) -> Option<Intended> {
    match read_json(dir, INTENDED) {
        Err(err) if err.is_not_found() => None,
        Err(_) => Some(Intended::default()),
        Ok(json) => Some(serde_json::from_slice(&json).unwrap_or_default()),
    }
}

fn read_json(dir: &Path, name: &CStr) -> Result<Vec<u8>> {
    let file = Dir::open(dir)?.open_file(name)?;
    let mut json = Vec::new();
    file.take(MOST).read_to_end(&mut json).ok();
    Ok(json)
}

/// Records the intention to start a script for `id`, unless the server is unsettled. [`begin`]
/// later turns this record into the record of the started script. The sync of the root also syncs
/// the intention, so that [`begin`] needs no sync of its own. After a power cut, the intention
/// counts as a started script.
pub fn intend(dir: &Path, id: Digest, old: Option<Digest>) -> Result<()> {
    let boot = running_script::boot();
    // Without a boot id, no agent could find out later whether the system was restarted.
    if boot.is_empty() || read(dir).is_some() {
        return Ok(());
    }
    let what = begun(None, id, old.filter(|old| *old != id), false);
    let json = serde_json::to_vec(&Intended { boot, what }).unwrap_or_default();
    let dir = Dir::open(dir)?;
    dir.remove_file(INTENDED)?;
    let file = dir.create_file(INTENDED, MODE)?;
    (&file).write_all(&json).map_err(|cause| Error::io("write", dir.path_of(INTENDED), cause))
}

/// Removes the record of the intention if the agent does not start the script.
pub fn forget_intended(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(INTENDED)
}

/// Records, durably, that a script is about to run for `id`. `left` is the earlier record, if any.
/// `synced` says whether a sync of the filesystem followed [`intend`].
pub fn begin(
    dir: &Path,
    left: Option<&Unsettled>,
    id: Digest,
    old: Option<Digest>,
    rollback: bool,
    synced: bool,
) -> Result<()> {
    let now = begun(left, id, old, rollback);
    if left.is_some() {
        return put(dir, Some(&now));
    }
    let is_this = |what: &Unsettled| Unsettled { since: now.since, ..what.clone() } == now;
    if synced
        && intended(dir).is_some_and(|it| it.boot == running_script::boot() && is_this(&it.what))
    {
        let dir = Dir::open(dir)?;
        return dir.rename(INTENDED, &dir, NAME);
    }
    create(dir, &now)
}

fn begun(left: Option<&Unsettled>, id: Digest, old: Option<Digest>, rollback: bool) -> Unsettled {
    let (since, failures) = left.map_or((Timestamp::now(), 0), |left| (left.since, left.failures));
    let (id, old_id) = (id.to_string(), old.map(|old| old.to_string()));
    Unsettled { id, old_id, since, failures, rollback, ..Unsettled::default() }
}

/// Writes the file without a temporary name, which takes one commit of the filesystem's journal
/// instead of two. A truncated file does no harm, because a truncated file also counts as a record.
fn create(dir: &Path, now: &Unsettled) -> Result<()> {
    let dir = Dir::open(dir)?;
    let file = dir.create_file(NAME, MODE)?;
    let failed = |cause| Error::io("write", dir.path_of(NAME), cause);
    (&file).write_all(&now.to_json()).and_then(|()| file.sync_all()).map_err(failed)?;
    dir.sync()
}

/// Records why the script of the last [`begin`] failed.
pub fn failed(dir: &Path, error: &str, exit_code: Option<i32>) -> Result<()> {
    let left = read(dir).unwrap_or_default();
    let (failures, failed) = (left.failures.saturating_add(1), Some(Timestamp::now()));
    let error = Some(error.chars().take(MOST_OF_ERROR).collect());
    put(dir, Some(&Unsettled { failures, failed, error, exit_code, ..left }))
}

/// Records the time of the script's next run.
pub fn set_next_run(dir: &Path, at: Timestamp) -> Result<()> {
    match read(dir) {
        Some(left) => put(dir, Some(&Unsettled { next: Some(at), ..left })),
        None => Ok(()),
    }
}

/// Replaces the record with `left`. `None` removes the record and the intention.
pub fn put(dir: &Path, left: Option<&Unsettled>) -> Result<()> {
    let Some(left) = left else {
        forget_intended(dir)?;
        return Dir::open(dir)?.remove_file(NAME);
    };
    let path = dir.join(&*NAME.to_string_lossy());
    // The message names the file, and not the temporary name of the file.
    let failed = |err: Error| Error::io("replace", &path, io::Error::other(err.to_string()));
    replace_file(&path, &left.to_json(), MODE).map_err(failed)
}

/// Removes all records after a script has succeeded.
pub fn clear(dir: &Path) -> Result<()> {
    put(dir, None)?;
    running_script::forget(dir)
}

/// The configuration for which the last script was started, if that script did not succeed. The
/// function finds this configuration in the record of its root.
pub fn pending(dir: &Path) -> Option<Configuration> {
    let id = read(dir)?.target()?;
    let record = dir.join("roots").join(id.to_string());
    crate::records::state_file::peek(&record).ok().flatten().filter(|found| found.id() == id)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn old_root_is_the_one_whose_service_may_run() {
        let [one, two, three] = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()));
        let left = |id: Digest, old: Option<Digest>| Unsettled {
            id: id.to_string(),
            old_id: old.map(|old| old.to_string()),
            ..Unsettled::default()
        };
        let check = |left: Option<&Unsettled>, deployed, new, want| {
            assert_eq!(old_for_script(left, deployed, new), want);
        };
        check(None, None, one, None);
        check(None, Some(one), one, None);
        check(None, Some(one), two, Some(one));
        // The script failed for `two`. The next script deploys `two` again, returns to `one`, or
        // deploys `three`.
        let failed = left(two, Some(one));
        check(Some(&failed), Some(one), two, Some(one));
        check(Some(&failed), Some(one), one, Some(two));
        check(Some(&failed), Some(one), three, Some(one));
        // The script of the return to `one` failed, too, and runs again.
        check(Some(&left(one, Some(two))), Some(one), one, Some(two));
        // The agent was killed after it had written the state file.
        check(Some(&left(two, Some(one))), Some(two), two, Some(one));
        // First deploys, and then damaged records.
        check(Some(&left(one, None)), None, one, None);
        check(Some(&left(one, None)), Some(one), one, None);
        check(Some(&Unsettled::default()), Some(one), one, None);
        check(Some(&Unsettled::default()), Some(one), two, Some(one));
    }

    #[test]
    fn server_is_unsettled_until_a_script_succeeds_even_if_the_record_is_damaged() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(read(dir), None);
        let [one, two] = ["1", "2"].map(|text| Digest::of(text.as_bytes()));
        begin(dir, None, two, Some(one), false, true).unwrap();
        let begun = read(dir).unwrap();
        assert_eq!((begun.target(), begun.failures, begun.failed), (Some(two), 0, None));
        failed(dir, &"\0".repeat(5000), Some(3)).unwrap();
        set_next_run(dir, Timestamp::UNIX_EPOCH).unwrap();
        let left = read(dir).unwrap();
        assert_eq!((left.failures, left.next), (1, Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(left.exit_code, Some(3));
        begin(dir, Some(&left), one, Some(two), false, true).unwrap();
        let begun = read(dir).unwrap();
        assert_eq!((begun.failures, begun.since, &begun.error), (1, left.since, &None));
        failed(dir, "no", None).unwrap();
        assert_eq!(read(dir).unwrap().failures, 2);
        // An empty file, as after a power cut, is not a success.
        fs::write(dir.join("unsettled.json"), "").unwrap();
        assert_eq!(read(dir), Some(Unsettled::default()));
        clear(dir).unwrap();
        assert_eq!(read(dir), None);
        std::os::unix::fs::symlink("elsewhere", dir.join("unsettled.json")).unwrap();
        let left = read(dir);
        assert_eq!(left, Some(Unsettled::default()));
        begin(dir, None, two, None, false, false).unwrap_err();
        begin(dir, left.as_ref(), two, None, false, false).unwrap();
        assert!(read(dir).unwrap().target() == Some(two) && !dir.join("elsewhere").exists());
        clear(dir).unwrap();
        // Earlier versions of the agent wrote only the record of the running script.
        running_script::note(dir, two, 0).unwrap();
        assert_eq!(read(dir).unwrap().target(), Some(two));
        clear(dir).unwrap();
        assert_eq!(read(dir), None);
    }

    #[test]
    fn intention_counts_when_the_script_starts_and_after_a_power_cut() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let file = dir.join("unsettled.next");
        let [one, two, three] = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()));
        intend(dir, two, Some(one)).unwrap();
        intend(dir, two, Some(one)).unwrap();
        assert_eq!(read(dir), None, "an agent that is killed now has not started a script");
        begin(dir, None, two, Some(one), false, true).unwrap();
        assert!(read(dir).unwrap().target() == Some(two) && !file.exists());
        // If the server is unsettled already, the agent records no intention.
        intend(dir, one, Some(two)).unwrap();
        assert!(!file.exists());
        clear(dir).unwrap();
        // Another script starts, or nothing was synced after the intention.
        for (old, rollback, synced) in
            [(one, false, false), (three, false, true), (one, true, true)]
        {
            intend(dir, two, Some(one)).unwrap();
            begin(dir, None, two, Some(old), rollback, synced).unwrap();
            let begun = read(dir).unwrap();
            assert_eq!((begun.old(), begun.rollback), (Some(old), rollback));
            assert!(file.exists());
            clear(dir).unwrap();
            assert!(read(dir).is_none() && !file.exists());
        }
        intend(dir, two, Some(one)).unwrap();
        forget_intended(dir).unwrap();
        assert!(!file.exists());
        // After a power cut, nobody knows whether the script was started.
        intend(dir, two, Some(one)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let left = [&text.replace(&running_script::boot(), "another start"), "", "{"];
        for (text, target) in left.iter().zip([Some(two), None, None]) {
            fs::write(&file, text).unwrap();
            assert_eq!(read(dir).unwrap().target(), target);
        }
        clear(dir).unwrap();
        assert_eq!(read(dir), None);
    }
}
