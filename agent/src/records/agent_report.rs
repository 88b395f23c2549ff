//! What a running agent leaves for `status`: `agent.json` in its directory. Written when
//! something in it changes; nothing but subcommands reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use deploy_store::{LinkMode, Root};
use serde::{Deserialize, Serialize};

use crate::sandbox::Sandbox;

const NAME: &str = "agent.json";

/// What `status` cannot see from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the agent.
    pub version: String,
    /// How it places files.
    pub link: Option<String>,
    /// What `-link` said.
    pub link_flag: Option<String>,
    /// Its state file.
    pub state: Option<PathBuf>,
    /// How many roots it keeps.
    pub keep_roots: Option<usize>,
    /// Whether that was said, so that roots of another program count among them.
    pub count_taken_over: bool,
    /// Whether it keeps blobs of extracted layers.
    pub keep_blobs: bool,
    /// Bytes that are to stay free.
    pub min_free: u64,
    /// What the threads that read archives are confined by; `None` for nothing.
    pub confinement: Option<Sandbox>,
    /// How the files of the last root got there.
    pub placed: Option<Placed>,
    /// The spare root, as long as the agent runs.
    pub spare: Option<Spare>,
    /// Id of what it deployed last, in case the state file is lost.
    pub deployed: Option<String>,
    /// Id of what the registry had at the last look that told.
    pub offered: Option<String>,
    /// What the last cycle failed of; `None` when it went well.
    pub error: Option<String>,
}

/// How the files of a root got there, but for those that the spare had already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placed {
    /// By sharing extents.
    pub reflinked: u64,
    /// As another name of the cached file.
    pub hardlinked: u64,
    /// By copying bytes.
    pub copied: u64,
    /// Whether it was made of the spare.
    pub from_spare: bool,
}

impl Placed {
    /// For people.
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
    /// Id of what it is, or is to be, a copy of.
    pub id: String,
    /// Whether it can be used.
    pub ready: bool,
}

impl Report {
    /// Of the file in `dir`, not following a symlink.
    pub fn metadata(dir: &Path) -> Option<fs::Metadata> {
        fs::symlink_metadata(dir.join(NAME)).ok()
    }

    /// The report in `dir`. One that is missing or damaged says nothing.
    pub fn read(dir: &Path) -> Self {
        let json = fs::read(dir.join(NAME)).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

/// Writes the report, whoever of the agent's threads has news.
#[derive(Debug, Clone)]
pub struct Reporter {
    dir: PathBuf,
    writing: Arc<Mutex<()>>,
}

impl Reporter {
    /// Writes to the agent's directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), writing: Arc::default() }
    }

    /// Changes the report. One that cannot be written stops nothing.
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
            tracing::debug!("no report for status: {err}");
        }
    }
}

/// The word for a way of placing files, as `-link` takes it.
pub fn link_word(link: LinkMode) -> &'static str {
    match link {
        LinkMode::Auto => "auto",
        LinkMode::Reflink => "reflink",
        LinkMode::Hardlink => "hardlink",
        LinkMode::Copy => "copy",
    }
}

/// `3 files linked, 1 copied`.
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
    fn changes_are_kept_and_damage_is_passed_over() {
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
    fn counts_are_told_by_way() {
        let placed = deploy_store::Placed { reflinked: 0, hardlinked: 3, copied: 1 };
        assert_eq!(describe(placed), "files: 3 linked, 1 copied");
        assert_eq!(describe(deploy_store::Placed::default()), "no files with contents");
    }
}
