//! A server is unsettled from before a script starts until one succeeds: nobody knows what one that
//! failed, or whose end was not seen, has done. Until then nothing is up to date. Kept as
//! `unsettled.json` in the agent's directory, so that it outlives the agent.

use std::ffi::CStr;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Error, Result, replace_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::running_script;

const NAME: &CStr = c"unsettled.json";
/// The same of a script that is about to be started, see [`intend`].
const INTENDED: &CStr = c"unsettled.next";
/// Everybody may see it, as the state file.
const MODE: u32 = 0o644;
/// Bytes of it that are read at most.
const MOST: u64 = 16 << 10;
/// Characters of what went wrong that are kept.
const MOST_OF_ERROR: usize = 1000;

/// What is known of the last script that did not succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsettled {
    /// Id of what it was to deploy.
    pub id: String,
    /// Id of what it was told to be there before.
    pub old_id: Option<String>,
    /// When the first one since the last success was started.
    pub since: Timestamp,
    /// How many failed since then.
    pub failures: u32,
    /// Whether somebody rolled back by hand.
    pub rollback: bool,
    /// When the last one failed; none where its end was not seen.
    pub failed: Option<Timestamp>,
    /// What it failed of.
    pub error: Option<String>,
    /// When it is run again.
    pub next: Option<Timestamp>,
}

impl Unsettled {
    /// What it was to deploy, if that is known.
    pub fn target(&self) -> Option<Digest> {
        self.id.parse().ok()
    }

    /// What it was told to be there before.
    fn old(&self) -> Option<Digest> {
        self.old_id.as_ref()?.parse().ok()
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// For people: what happened.
    pub fn to_text(&self) -> String {
        let times = match self.failures {
            0 | 1 => String::new(),
            n => format!(", {n} times since {:.0}", self.since),
        };
        match (&self.failed, &self.error) {
            (Some(at), Some(error)) => format!("script failed {at:.0}{times}: {error}"),
            _ => format!("script was started {:.0}, and its end was not seen", self.since),
        }
    }
}

/// What the script is told to be there before `new` is deployed, where `deployed` is: what may
/// run now.
pub fn old_for_script(
    left: Option<&Unsettled>,
    deployed: Option<Digest>,
    new: Digest,
) -> Option<Digest> {
    let last = left.and_then(Unsettled::target);
    let old = match last {
        // The same once more.
        Some(last) if last == new => left.and_then(Unsettled::old).or(deployed),
        // Back to what was there before the script failed.
        Some(last) if deployed == Some(new) => Some(last),
        _ => deployed,
    };
    // A script that removes the old root must not remove the new one.
    old.filter(|old| *old != new)
}

/// A script that is about to be started, as [`INTENDED`] has it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Intended {
    /// That start of the system. In another one nobody knows whether the script was started.
    boot: String,
    #[serde(flatten)]
    what: Unsettled,
}

/// What is in `dir`; `None` where the last script succeeded.
pub fn read(dir: &Path) -> Option<Unsettled> {
    match read_json(dir, NAME) {
        Err(err) if err.is_not_found() => {}
        Err(_) => return Some(Unsettled::default()),
        // Damaged, it is there all the same.
        Ok(json) => return Some(serde_json::from_slice(&json).unwrap_or_default()),
    }
    if let Some(intended) = intended(dir).filter(|it| it.boot != running_script::boot()) {
        return Some(intended.what);
    }
    // An agent of before left only the script's note.
    let id = running_script::noted_id(dir)?;
    Some(Unsettled { id, since: Timestamp::now(), ..Unsettled::default() })
}

/// What is intended, if that is known; what is damaged is of no start of the system.
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

/// Writes down what [`begin`] will take note of when the root of `id` is there, where nothing
/// is unsettled: building the root syncs it on the way, and nobody waits for that again.
/// After a power cut it counts as begun.
pub fn intend(dir: &Path, id: Digest, old: Option<Digest>) -> Result<()> {
    let boot = running_script::boot();
    // Without a name for this start of the system nobody could tell it from the next.
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

/// Forgets what was intended: it does not come to that.
pub fn forget_intended(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(INTENDED)
}

/// Takes note, durably, that a script is about to run for `id`. `left` is what is there;
/// `synced`: everything was, since it was intended.
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

/// Not by way of a temporary name: one commit of the journal is less than two, while somebody
/// waits, and a file that is cut short says enough.
fn create(dir: &Path, now: &Unsettled) -> Result<()> {
    let dir = Dir::open(dir)?;
    let file = dir.create_file(NAME, MODE)?;
    let failed = |cause| Error::io("write", dir.path_of(NAME), cause);
    (&file).write_all(&now.to_json()).and_then(|()| file.sync_all()).map_err(failed)?;
    dir.sync()
}

/// Takes note of how the script failed that [`begin`] told of.
pub fn failed(dir: &Path, error: &str) -> Result<()> {
    let left = read(dir).unwrap_or_default();
    let (failures, failed) = (left.failures.saturating_add(1), Some(Timestamp::now()));
    let error = Some(error.chars().take(MOST_OF_ERROR).collect());
    put(dir, Some(&Unsettled { failures, failed, error, ..left }))
}

/// Takes note of when it is run again.
pub fn set_next_run(dir: &Path, at: Timestamp) -> Result<()> {
    match read(dir) {
        Some(left) => put(dir, Some(&Unsettled { next: Some(at), ..left })),
        None => Ok(()),
    }
}

/// Has it be as `left` says again.
pub fn put(dir: &Path, left: Option<&Unsettled>) -> Result<()> {
    let Some(left) = left else {
        forget_intended(dir)?;
        return Dir::open(dir)?.remove_file(NAME);
    };
    let path = dir.join(&*NAME.to_string_lossy());
    // The name that it has meanwhile says nothing to anybody.
    let failed = |err: Error| Error::io("replace", &path, io::Error::other(err.to_string()));
    replace_file(&path, &left.to_json(), MODE).map_err(failed)
}

/// Takes note that a script succeeded.
pub fn clear(dir: &Path) -> Result<()> {
    put(dir, None)?;
    running_script::forget(dir)
}

/// What the script was to deploy, from the record of its root.
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
    fn the_old_root_is_the_one_that_may_run() {
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
        // It failed for two: once more, back to one, on to three.
        let failed = left(two, Some(one));
        check(Some(&failed), Some(one), two, Some(one));
        check(Some(&failed), Some(one), one, Some(two));
        check(Some(&failed), Some(one), three, Some(one));
        // The way back failed, too: once more.
        check(Some(&left(one, Some(two))), Some(one), one, Some(two));
        // Killed when the state was written already.
        check(Some(&left(two, Some(one))), Some(two), two, Some(one));
        // The first of all, and one of which nothing is known.
        check(Some(&left(one, None)), None, one, None);
        check(Some(&left(one, None)), Some(one), one, None);
        check(Some(&Unsettled::default()), Some(one), one, None);
        check(Some(&Unsettled::default()), Some(one), two, Some(one));
    }

    #[test]
    fn is_kept_until_a_script_succeeds_whatever_becomes_of_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(read(dir), None);
        let [one, two] = ["1", "2"].map(|text| Digest::of(text.as_bytes()));
        begin(dir, None, two, Some(one), false, true).unwrap();
        let begun = read(dir).unwrap();
        assert_eq!((begun.target(), begun.failures, begun.failed), (Some(two), 0, None));
        failed(dir, &"\0".repeat(5000)).unwrap();
        set_next_run(dir, Timestamp::UNIX_EPOCH).unwrap();
        let left = read(dir).unwrap();
        assert_eq!((left.failures, left.next), (1, Some(Timestamp::UNIX_EPOCH)));
        begin(dir, Some(&left), one, Some(two), false, true).unwrap();
        let begun = read(dir).unwrap();
        assert_eq!((begun.failures, begun.since, &begun.error), (1, left.since, &None));
        failed(dir, "no").unwrap();
        assert_eq!(read(dir).unwrap().failures, 2);
        // What a power cut may leave is no success.
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
        // An agent of before knew of the end that nobody saw.
        running_script::note(dir, two, 0).unwrap();
        assert_eq!(read(dir).unwrap().target(), Some(two));
        clear(dir).unwrap();
        assert_eq!(read(dir), None);
    }

    #[test]
    fn what_was_intended_counts_once_the_script_is_to_start_and_after_a_power_cut() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let file = dir.join("unsettled.next");
        let [one, two, three] = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()));
        intend(dir, two, Some(one)).unwrap();
        intend(dir, two, Some(one)).unwrap();
        assert_eq!(read(dir), None, "an agent that is killed now has started nothing");
        begin(dir, None, two, Some(one), false, true).unwrap();
        assert!(read(dir).unwrap().target() == Some(two) && !file.exists());
        // While something is unsettled, that is what counts.
        intend(dir, one, Some(two)).unwrap();
        assert!(!file.exists());
        clear(dir).unwrap();
        // It comes to something else, or nothing was synced since.
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
        // The power was cut, and nobody knows whether the script was started.
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
