//! Reads and writes `report.json` in the agent's directory, which contains the reports that the
//! registry has not acknowledged. The agent does not sync the file. After a power cut, the agent
//! makes new reports from its other records.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Error, Result};
use deploy_wire::fleet::Report;
use serde::{Deserialize, Serialize};

const NAME: &CStr = c"report.json";
/// The name of the file until the file is complete.
const UNFINISHED: &CStr = c"report.json.new";
/// Maximum number of bytes that are read from the file.
const MOST: u64 = 8 << 20;

/// The agent's reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportFile {
    /// Number of deploys that agents of this directory have begun.
    pub attempt: u64,
    /// Number of the last report.
    pub seq: u64,
    /// Number of the last report that the registry has acknowledged.
    pub acknowledged: u64,
    /// The last report.
    pub last: Option<Report>,
    /// The reports that the registry has not acknowledged, oldest first.
    pub waiting: Vec<Report>,
}

impl ReportFile {
    /// Reads the file in `dir`. A missing or damaged file counts as empty.
    pub fn read(dir: &Path) -> Self {
        let read = || {
            let mut json = Vec::new();
            Dir::open(dir).ok()?.open_file(NAME).ok()?.take(MOST).read_to_end(&mut json).ok()?;
            serde_json::from_slice(&json).ok()
        };
        read().unwrap_or_default()
    }

    /// Replaces the file in `dir`, without a sync.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let dir = Dir::open(dir)?;
        // The file is created each time, because an existing file may be a link that leads
        // elsewhere.
        dir.remove_file(UNFINISHED)?;
        let file = dir.create_file(UNFINISHED, 0o644)?;
        (&file).write_all(&json).map_err(|err| Error::io("write", dir.path_of(UNFINISHED), err))?;
        dir.rename(UNFINISHED, &dir, NAME)
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::Phase;

    use super::*;

    #[test]
    fn reports_are_kept_and_a_damaged_file_counts_as_empty() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        assert_eq!(ReportFile::read(dir), ReportFile::default());
        let report = Report { seq: 3, phase: Phase::Failed, ..Report::default() };
        let file = ReportFile {
            attempt: 2,
            seq: 3,
            acknowledged: 1,
            last: Some(report.clone()),
            waiting: vec![report],
        };
        file.write(dir).unwrap();
        file.write(dir).unwrap();
        assert_eq!(ReportFile::read(dir), file);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
        std::fs::write(dir.join("report.json"), "{").unwrap();
        assert_eq!(ReportFile::read(dir), ReportFile::default());
    }
}
