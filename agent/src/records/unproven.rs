//! Reads and writes `checking.json` in the agent's directory, which records the deployed
//! configuration until its health gate has succeeded. The file exists while the gate runs, and
//! after an agent was killed during the gate. The file also exists if the gate failed and the agent
//! keeps the configuration.

use std::ffi::CStr;
use std::io::Read as _;
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Digest, Error, Result, replace_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const NAME: &CStr = c"checking.json";
/// As with the state file, everybody may read this record.
const MODE: u32 = 0o644;
/// Maximum number of bytes that are read from the file.
const MOST: u64 = 64 << 10;

/// A configuration that has not proven healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// Id of the configuration.
    pub id: String,
    /// Id of the configuration to return to if the gate fails. This is the last earlier
    /// configuration that proved healthy.
    pub back: Option<String>,
    /// Time at which the script ended.
    pub since: Timestamp,
    /// The failure of the gate, if the gate has failed and the agent keeps the configuration.
    pub failure: Option<Failure>,
}

/// The failure of a gate after which the agent keeps the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why the gate failed.
    pub reason: String,
    /// Why the rollback failed, if the agent tried to roll back.
    pub way_back: Option<String>,
    /// Time at which the gate failed.
    pub at: Timestamp,
}

impl Unproven {
    /// The record for `new`, whose gate begins.
    pub fn new(new: Digest, back: Option<Digest>) -> Self {
        let (id, back) = (new.to_string(), back.map(|back| back.to_string()));
        Self { id, back, since: Timestamp::now(), failure: None }
    }

    /// Whether this record belongs to the configuration `id`.
    pub fn is_of(&self, id: Option<Digest>) -> bool {
        id.is_some_and(|id| id.to_string() == self.id)
    }

    /// Id of the configuration to return to, if any.
    pub fn back(&self) -> Option<Digest> {
        self.back.as_ref()?.parse().ok()
    }

    /// The record in `dir`. A damaged record counts as missing, with a warning.
    pub fn read(dir: &Path) -> Option<Self> {
        let read = || {
            let mut json = Vec::new();
            let file = Dir::open(dir)?.open_file(NAME)?;
            let read = file.take(MOST).read_to_end(&mut json);
            read.map_err(|err| Error::io("read", path(dir), err))?;
            serde_json::from_slice(&json)
                .map_err(|err: serde_json::Error| Error::io("read", path(dir), err))
        };
        match read() {
            Ok(found) => Some(found),
            Err(err) if err.is_not_found() => None,
            Err(err) => {
                tracing::warn!("cannot read the record of the health gate: {err}");
                None
            }
        }
    }

    /// Writes the record to `dir`, durably.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self);
        let mut json = json.map_err(|err| Error::io("write", path(dir), err))?;
        json.push(b'\n');
        replace_file(&path(dir), &json, MODE)
    }

    /// Whether the gate of the configuration failed and the agent keeps the configuration.
    pub fn is_rejected(&self) -> bool {
        self.failure.is_some()
    }

    /// Returns a text for people, which says why the gate failed, and that the agent keeps the
    /// configuration. The text is empty if the gate has not failed.
    pub fn to_text(&self) -> String {
        let text = |failure: &Failure| format!("{}; {} is kept", failure.to_text(), self.id);
        self.failure.as_ref().map(text).unwrap_or_default()
    }
}

impl Failure {
    /// Returns the failure as text for people.
    pub fn to_text(&self) -> String {
        let Self { reason, way_back, .. } = self;
        let back = way_back
            .as_ref()
            .map_or_else(String::new, |err| format!("; the rollback failed, too: {err}"));
        format!("{reason}{back}")
    }
}

/// The configuration to return to if `new` does not prove healthy. `record` is the record of the
/// last gate. `deployed` is the configuration that `new` replaces. The agent never returns to a
/// configuration that has not proven healthy, and never to `new` itself.
pub fn way_back(
    record: Option<&Unproven>,
    deployed: Option<Digest>,
    new: Digest,
) -> Option<Digest> {
    // If the record belongs to `new` but `new` is not deployed, an agent was killed after it had
    // written the record and before it could replace the state file.
    let record = record.filter(|record| record.is_of(deployed) || record.is_of(Some(new)));
    record.map_or(deployed, Unproven::back).filter(|back| *back != new)
}

/// Removes the record in `dir`. The agent does not sync the removal, so after a power cut the gate
/// may run again.
pub fn remove(dir: &Path) -> Result<()> {
    Dir::open(dir)?.remove_file(NAME)
}

/// Lets the gate of a rejected configuration run again. Returns whether there was a rejected
/// configuration.
pub fn retry(dir: &Path) -> Result<bool> {
    match Unproven::read(dir).filter(Unproven::is_rejected) {
        Some(rejected) => Unproven { failure: None, ..rejected }.write(dir).map(|()| true),
        None => Ok(false),
    }
}

fn path(dir: &Path) -> std::path::PathBuf {
    dir.join(&*NAME.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn way_back_skips_configurations_that_have_not_proven_healthy() {
        let [one, two, three] = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()));
        assert_eq!(way_back(None, None, one), None);
        assert_eq!(way_back(None, Some(one), two), Some(one));
        assert_eq!(way_back(None, Some(one), one), None, "the same tree is deployed again");
        // The gate of `two` was interrupted or failed, and `three` replaces `two`.
        let record = Unproven::new(two, Some(one));
        assert_eq!(way_back(Some(&record), Some(two), three), Some(one));
        assert_eq!(way_back(Some(&record), Some(two), two), Some(one));
        assert_eq!(way_back(Some(&record), Some(two), one), None);
        // The agent was killed after it had written the record, but not the state file.
        assert_eq!(way_back(Some(&record), Some(one), two), Some(one));
        let first = Unproven::new(two, None);
        assert_eq!(way_back(Some(&first), Some(two), three), None);
        // The record belongs to another configuration.
        assert_eq!(way_back(Some(&record), Some(three), one), Some(three));
    }

    #[test]
    fn record_is_kept_and_a_rejected_configuration_can_be_tried_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert!(Unproven::read(dir).is_none() && !retry(dir).unwrap());
        let record = Unproven::new(Digest::of(b"a"), Some(Digest::of(b"b")));
        record.write(dir).unwrap();
        assert_eq!(Unproven::read(dir), Some(record.clone()));
        assert!(!retry(dir).unwrap());
        let (reason, way_back) = ("why".to_owned(), Some("no".to_owned()));
        let failure = Failure { reason, way_back, at: Timestamp::UNIX_EPOCH };
        assert_eq!(failure.to_text(), "why; the rollback failed, too: no");
        Unproven { failure: Some(failure), ..record.clone() }.write(dir).unwrap();
        assert!(Unproven::read(dir).unwrap().is_rejected());
        assert!(retry(dir).unwrap());
        assert_eq!(Unproven::read(dir), Some(record));
        remove(dir).unwrap();
        remove(dir).unwrap();
        assert_eq!(Unproven::read(dir), None);
        fs::write(dir.join("checking.json"), "{").unwrap();
        assert_eq!(Unproven::read(dir), None);
    }
}
