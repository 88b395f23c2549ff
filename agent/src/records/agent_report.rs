//! Reads and writes `agent.json` in the agent's directory, the report that a running agent makes
//! for subcommands. The agent writes the file only if the contents change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use deploy_store::{LinkMode, Root};
use serde::{Deserialize, Serialize};

use crate::records::last_gate::LastGate;
use crate::sandbox::Sandbox;

const NAME: &str = "agent.json";

/// The facts about an agent that the agent records for subcommands and for its own next start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the agent.
    pub version: String,
    /// How the agent places files in roots: `reflink`, `hardlink` or `copy`.
    pub link: Option<String>,
    /// The value of `-link`.
    pub link_flag: Option<String>,
    /// The path of the state file.
    pub state: Option<PathBuf>,
    /// The number of roots that sweeps keep.
    pub keep_roots: Option<usize>,
    /// Whether the user gave `keep_roots`. If so, roots of another program also count towards
    /// `keep_roots`.
    pub count_taken_over: bool,
    /// Whether the cache keeps the blob of a layer after the layer is extracted.
    pub keep_blobs: bool,
    /// The number of bytes to keep free.
    pub min_free: u64,
    /// The sandbox of the threads that read archives; `None` without a sandbox.
    pub confinement: Option<Sandbox>,
    /// How the files of the last root were placed.
    pub placed: Option<Placed>,
    /// The spare root. The value applies only while the agent runs.
    pub spare: Option<Spare>,
    /// Id of the configuration that was deployed last, in case the state file is lost.
    pub deployed: Option<String>,
    /// Id of the registry's configuration at the last successful poll. The id is present in three
    /// cases: after a failure, while a failed script waits for its next run, and while the
    /// configuration is rejected.
    pub offered: Option<String>,
    /// Why the last cycle failed; `None` after a success.
    pub error: Option<String>,
    /// The last health gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<LastGate>,
    /// The name of this host at the registry.
    pub host: Option<String>,
    /// Whether a watch is open. While a watch is open, changes arrive without a poll.
    pub watching: bool,
    /// Why the registry keeps no reports of this agent; `None` if the registry keeps the reports.
    pub reports_refused: Option<String>,
    /// Number of retries that operators had requested at the last retry of this agent.
    pub retries: u64,
}

/// How the files of a root were placed. Files that the spare already contained do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placed {
    /// Number of files that share extents with files of the cache.
    pub reflinked: u64,
    /// Number of files that are hardlinks to cached files.
    pub hardlinked: u64,
    /// Number of files that were copied.
    pub copied: u64,
    /// Whether the root was made from the spare.
    pub from_spare: bool,
}

impl Placed {
    /// Returns the numbers as text for people.
    pub fn to_text(self) -> String {
        let Self { reflinked, hardlinked, copied, from_spare } = self;
        let placed = describe(deploy_store::Placed { reflinked, hardlinked, copied });
        if from_spare { format!("the spare, {placed}") } else { placed }
    }
}

impl From<&Root> for Placed {
    fn from(root: &Root) -> Self {
        let deploy_store::Placed { reflinked, hardlinked, copied } = root.placed;
        Self { reflinked, hardlinked, copied, from_spare: root.from_spare }
    }
}

/// The spare root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spare {
    /// Id of the configuration that the spare is made for.
    pub id: String,
    /// Whether the spare is complete and can be used.
    pub ready: bool,
}

impl Report {
    /// Metadata of `agent.json` in `dir`. The function does not follow a symlink.
    pub fn metadata(dir: &Path) -> Option<fs::Metadata> {
        fs::symlink_metadata(dir.join(NAME)).ok()
    }

    /// The report in `dir`. A missing or damaged file counts as an empty report.
    pub fn read(dir: &Path) -> Self {
        let json = fs::read(dir.join(NAME)).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

/// Writes the report. Several threads may use a reporter at the same time.
#[derive(Debug, Clone)]
pub struct Reporter {
    dir: PathBuf,
    writing: Arc<Mutex<()>>,
}

impl Reporter {
    /// A reporter that writes to the agent's directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), writing: Arc::default() }
    }

    /// Changes the report. If the write fails, the agent only logs the error.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = Report::read(&self.dir);
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return;
        }
        let mut json = serde_json::to_vec_pretty(&new).unwrap_or_default();
        json.push(b'\n');
        if let Err(err) = deploy_store::replace_file(&self.dir.join(NAME), &json, 0o644) {
            tracing::debug!("cannot write the report for status: {err}");
        }
    }
}

/// The value of `-link` that stands for `link`.
pub fn link_word(link: LinkMode) -> &'static str {
    match link {
        LinkMode::Auto => "auto",
        LinkMode::Reflink => "reflink",
        LinkMode::Hardlink => "hardlink",
        LinkMode::Copy => "copy",
    }
}

/// Returns the numbers as text, for example `files: 3 linked, 1 copied`.
pub fn describe(placed: deploy_store::Placed) -> String {
    let ways =
        [(placed.reflinked, "cloned"), (placed.hardlinked, "linked"), (placed.copied, "copied")];
    let some: Vec<String> = ways
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, way)| format!("{count} {way}"))
        .collect();
    if some.is_empty() {
        return "no files with contents".to_owned();
    }
    format!("files: {}", some.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_kept_and_a_damaged_report_counts_as_empty() {
        let temp = tempfile::tempdir().unwrap();
        let reporter = Reporter::new(temp.path());
        reporter.update(|report| report.link = Some("copy".to_owned()));
        reporter.update(|report| report.error = Some("no".to_owned()));
        let report = Report::read(temp.path());
        assert_eq!((report.link.as_deref(), report.error.as_deref()), (Some("copy"), Some("no")));
        fs::write(temp.path().join(NAME), "{").unwrap();
        assert_eq!(Report::read(temp.path()), Report::default());
    }

    #[test]
    fn placed_files_are_counted_by_method() {
        let placed = deploy_store::Placed { reflinked: 0, hardlinked: 3, copied: 1 };
        assert_eq!(describe(placed), "files: 3 linked, 1 copied");
        assert_eq!(describe(deploy_store::Placed::default()), "no files with contents");
    }
}
