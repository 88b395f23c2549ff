//! Reads and writes `hold.json` in the agent's directory, which records the hold after a rollback.
//! During the hold, the agent does not deploy the registry's configuration. The hold ends when that
//! configuration changes, or when an operator releases the hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use deploy_store::disk::Dir;
use deploy_store::{Digest, Error, Result, replace_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const NAME: &std::ffi::CStr = c"hold.json";
/// As with the state file, everybody may read this file.
const MODE: u32 = 0o644;

/// The hold: the configurations that the agent must not deploy, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackHold {
    /// Id of the configuration from which the agent rolled back.
    pub from: String,
    /// Id of the registry's configuration at the rollback, if that configuration was neither `from`
    /// nor `to`.
    pub registry: Option<String>,
    /// Id of the configuration to which the agent rolled back.
    pub to: String,
    /// Time of the rollback.
    pub since: Timestamp,
    /// Why `from` was not healthy; `None` if an operator asked for the rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RollbackHold {
    /// A hold on the configuration `from`. The configuration `registry` is also held, unless it is
    /// `from` or `to`.
    pub fn new(from: Digest, to: Digest, registry: Option<Digest>, since: Timestamp) -> Self {
        let registry = registry.filter(|id| *id != from && *id != to);
        let registry = registry.map(|id| id.to_string());
        Self { from: from.to_string(), registry, to: to.to_string(), since, reason: None }
    }

    /// The same hold, for a rollback after a failed health gate. `reason` says why the gate failed.
    #[must_use]
    pub fn because(self, reason: String) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// Whether the rollback is unfinished, because `deployed` is still the configuration `from`.
    pub fn is_unfinished(&self, deployed: Option<Digest>) -> bool {
        deployed.is_some_and(|id| id.to_string() == self.from)
    }

    /// Whether the registry's configuration `offered` must not be deployed while `deployed` is
    /// deployed.
    pub fn holds(&self, deployed: Option<Digest>, offered: Digest) -> bool {
        let offered = offered.to_string();
        // If another configuration was deployed after the rollback, the hold no longer applies.
        deployed.is_some_and(|id| id.to_string() == self.to)
            && (offered == self.from || self.registry == Some(offered))
    }

    /// The hold in `dir`, if any. A hold that cannot be read is an error, because the agent could
    /// otherwise deploy a held configuration.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let json = match fs::read(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|err| Error::io("read", &path, err))?,
        };
        serde_json::from_slice(&json).map(Some).map_err(|_| Error::Corrupt {
            path,
            reason: "the file is not a valid hold; the agent deploys nothing new until \
                     deploy-agent rollback -release"
                .to_owned(),
        })
    }

    /// Writes the hold to `dir`, durably.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|err| Error::io("write", path(dir), io::Error::from(err)))?;
        json.push(b'\n');
        replace_file(&path(dir), &json, MODE)
    }

    /// Like [`RollbackHold::write`], but does not write if `dir` has this hold already.
    pub fn put(&self, dir: &Path) -> Result<()> {
        match Self::read(dir) {
            Ok(Some(hold)) if hold == *self => Ok(()),
            _ => self.write(dir),
        }
    }

    /// Removes the hold in `dir`, durably. Returns whether there was a hold.
    pub fn lift(dir: &Path) -> Result<bool> {
        let dir = Dir::open(dir)?;
        let there = dir.contains(NAME)?;
        if there {
            dir.remove_file(NAME)?;
            dir.sync()?;
        }
        Ok(there)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(&*NAME.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_lasts_until_the_registry_has_another_configuration() {
        let [from, to, pending, new] =
            ["from", "to", "pending", "new"].map(|text| Digest::of(text.as_bytes()));
        let since = Timestamp::UNIX_EPOCH;
        let hold = RollbackHold::new(from, to, Some(pending), since);
        assert!(hold.holds(Some(to), from) && hold.holds(Some(to), pending));
        assert!(!hold.holds(Some(to), new) && !hold.holds(Some(to), to));
        assert!(!hold.holds(Some(new), from) && !hold.holds(None, from));
        assert!(hold.is_unfinished(Some(from)));
        assert!(!hold.is_unfinished(Some(to)) && !hold.is_unfinished(None));
        assert_eq!(RollbackHold::new(from, to, Some(to), since).registry, None);
    }

    #[test]
    fn hold_is_kept_and_lifted_and_damage_does_not_lift_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(RollbackHold::read(dir).unwrap(), None);
        assert!(!RollbackHold::lift(dir).unwrap());
        let hold =
            RollbackHold::new(Digest::of(b"a"), Digest::of(b"b"), None, Timestamp::UNIX_EPOCH);
        hold.write(dir).unwrap();
        assert_eq!(RollbackHold::read(dir).unwrap(), Some(hold));
        let hold = RollbackHold::read(dir).unwrap().unwrap().because("not healthy".to_owned());
        hold.write(dir).unwrap();
        assert_eq!(RollbackHold::read(dir).unwrap(), Some(hold));
        fs::write(dir.join("hold.json"), "{").unwrap();
        let err = RollbackHold::read(dir).unwrap_err().to_string();
        assert!(err.contains("rollback -release"), "{err}");
        assert!(RollbackHold::lift(dir).unwrap());
        assert_eq!(RollbackHold::read(dir).unwrap(), None);
    }
}
