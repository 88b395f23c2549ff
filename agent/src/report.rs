//! What a running agent leaves for `status`: `agent.json` in its directory. Written when
//! something in it changes; nothing but `status` reads it.

use std::fs;
use std::path::Path;

use deploy_store::LinkMode;
use serde::{Deserialize, Serialize};

const NAME: &str = "agent.json";

/// What `status` cannot see from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the agent.
    pub version: String,
    /// How it places files.
    pub link: Option<String>,
    /// Id of what was deployed before the current state.
    pub previous: Option<String>,
    /// What the last cycle failed of; `None` when it went well.
    pub error: Option<String>,
}

impl Report {
    /// The report in `dir`. One that is missing or damaged says nothing.
    pub fn read(dir: &Path) -> Self {
        let json = fs::read(dir.join(NAME)).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// Changes the report in `dir`. A report that cannot be written stops nothing.
    pub fn update(dir: &Path, change: impl FnOnce(&mut Self)) {
        let old = Self::read(dir);
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return;
        }
        let mut json = serde_json::to_vec_pretty(&new).unwrap_or_default();
        json.push(b'\n');
        if let Err(err) = deploy_store::replace_file(&dir.join(NAME), &json, 0o644) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_kept_and_damage_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        Report::update(temp.path(), |report| report.link = Some("copy".to_owned()));
        Report::update(temp.path(), |report| report.error = Some("no".to_owned()));
        let report = Report::read(temp.path());
        assert_eq!((report.link.as_deref(), report.error.as_deref()), (Some("copy"), Some("no")));
        fs::write(temp.path().join(NAME), "{").unwrap();
        assert_eq!(Report::read(temp.path()), Report::default());
    }
}
