//! Makes the report of an import, as text and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use deploy_store::{Digest, escape};
use serde::Serialize;

use crate::go_import::{Files, State};

/// The report of an import.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The path of the Go tool's catalogue.
    pub state_db: PathBuf,
    /// Number of the last transaction of `state.db`.
    pub transaction: u64,
    /// The number of components.
    pub components: usize,
    /// The number of versions.
    pub versions: usize,
    /// The number of configurations.
    pub configurations: usize,
    /// The number of states of all configurations.
    pub states: usize,
    /// The number of files.
    pub files: usize,
    /// The bytes of all files together.
    pub bytes: u64,
    /// Damaged files.
    pub damaged: Vec<Bad>,
    /// Missing files that versions or current states use.
    pub missing: Vec<Bad>,
    /// Files that no version and no state uses.
    pub orphans: Vec<Orphan>,
    /// Earlier states that no rollback can restore, because files of these states are missing.
    pub lost: Vec<Lost>,
    /// Contradictions in the state of the Go registry, and foreign files, as text.
    pub odd: Vec<String>,
    /// Whether this was a dry run, which imports nothing.
    pub dry_run: bool,
}

/// A file that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The path of the file within the registry's directory.
    pub path: String,
    /// What is wrong with the file.
    pub why: String,
    /// The versions that use the file, and the configurations whose current state uses it.
    pub hits: Vec<String>,
}

/// A file that no version and no state uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// The path of the file within the registry's directory.
    pub path: String,
    /// The length in bytes.
    pub bytes: u64,
}

/// An earlier state with missing files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The configuration.
    pub configuration: String,
    /// The state's number.
    pub number: usize,
    /// The versions whose files are missing.
    pub needs: Vec<String>,
}

impl Report {
    /// Compares the catalogue with the files.
    pub fn new(state_db: &Path, state: &State, files: &Files, dry_run: bool) -> Self {
        let uses = uses(state);
        let hits = |digest: &Digest| uses.hits.get(digest).cloned().unwrap_or_default();
        let path = |digest: &Digest| format!("files/{digest}");
        let damaged = files.damaged.iter().map(|(digest, (bytes, why))| Bad {
            path: path(digest),
            why: format!("{why}; bytes read: {bytes}"),
            hits: hits(digest),
        });
        let missing = uses.hits.iter().filter(|(digest, _)| !files.have(**digest));
        let missing = missing.map(|(digest, hits)| Bad {
            path: path(digest),
            why: "upload the same bytes again".to_owned(),
            hits: hits.clone(),
        });
        let orphans = files.sizes().filter(|(digest, _)| {
            !uses.hits.contains_key(digest) && !uses.earlier.contains(digest)
        });
        let orphans = orphans.map(|(digest, bytes)| Orphan { path: path(&digest), bytes });
        let mut odd = state.odd.clone();
        odd.extend(
            files.foreign.iter().map(|name| format!("files/{} is not a blob", escape(name))),
        );
        odd.extend(without_version(state));
        Self {
            state_db: state_db.to_owned(),
            transaction: state.transaction,
            components: state.components.len(),
            versions: state.versions.len(),
            configurations: state.configurations.len(),
            states: state.configurations.iter().map(|of| of.states.len()).sum(),
            files: files.sizes().count(),
            bytes: files.sizes().map(|(_, bytes)| bytes).sum(),
            damaged: damaged.collect(),
            missing: missing.collect(),
            orphans: orphans.collect(),
            lost: lost(state, files),
            odd,
            dry_run,
        }
    }

    /// Whether no file is damaged, and all files of versions and current states exist.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }

    /// The report as one JSON document.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The report as text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<15} {value}");
        };
        let state_db = self.state_db.display();
        line("state.db", &format!("{state_db}, transaction {}", self.transaction));
        line("components", &self.components.to_string());
        line("versions", &self.versions.to_string());
        line("configurations", &format!("{}, {} states", self.configurations, self.states));
        line("files", &format!("{}, {} bytes", self.files, self.bytes));
        for (kind, bad) in [("damaged", &self.damaged), ("missing", &self.missing)] {
            for bad in bad {
                line(kind, &format!("{}: {}", bad.path, bad.why));
                bad.hits.iter().for_each(|hit| line("", &format!("affects {hit}")));
            }
        }
        for orphan in &self.orphans {
            line("orphan", &format!("{}   {} bytes, for gc to remove", orphan.path, orphan.bytes));
        }
        for Lost { configuration, number, needs } in &self.lost {
            let needs = needs.join(", ");
            line("lost", &format!("state {number} of {configuration}: missing files of {needs}"));
        }
        self.odd.iter().for_each(|odd| line("odd", odd));
        text.push_str(if self.dry_run {
            "nothing was imported\n"
        } else {
            "the import is complete; state.db is unchanged\n"
        });
        text
    }
}

#[derive(Default)]
struct Uses {
    /// Files that versions and current states use.
    hits: BTreeMap<Digest, Vec<String>>,
    /// Files that earlier states use.
    earlier: BTreeSet<Digest>,
}

fn uses(state: &State) -> Uses {
    let mut uses = Uses::default();
    for configuration in &state.configurations {
        let current = configuration.states.len() - 1;
        for (number, was) in configuration.states.iter().enumerate() {
            for layer in was.layers() {
                if number == current {
                    let hit = format!("configuration {}", configuration.name);
                    uses.hits.entry(layer.digest).or_default().push(hit);
                } else {
                    uses.earlier.insert(layer.digest);
                }
            }
        }
    }
    for version in &state.versions {
        let hit = format!("version {}:{}", version.component, version.version);
        uses.hits.entry(version.digest).or_default().push(hit);
    }
    uses
}

fn lost(state: &State, files: &Files) -> Vec<Lost> {
    let mut lost = Vec::new();
    for configuration in &state.configurations {
        let earlier = configuration.states.len() - 1;
        for (number, was) in (1..).zip(&configuration.states[..earlier]) {
            let gone = was.layers().iter().filter(|layer| !files.have(layer.digest));
            let needs: Vec<String> =
                gone.map(|layer| format!("{}:{}", layer.component, layer.version)).collect();
            if !needs.is_empty() {
                let configuration = configuration.name.to_string();
                lost.push(Lost { configuration, number, needs });
            }
        }
    }
    lost
}

/// Finds the layers of current states whose version no longer exists or now has a different file.
fn without_version(state: &State) -> Vec<String> {
    let versions: BTreeMap<_, _> = state
        .versions
        .iter()
        .map(|version| ((&version.component, &version.version), version.digest))
        .collect();
    let mut odd = Vec::new();
    for configuration in &state.configurations {
        let layers = configuration.states.last().map_or(&[][..], |current| current.layers());
        for layer in layers {
            let (component, version) = (&layer.component, &layer.version);
            let why = match versions.get(&(component, version)) {
                Some(digest) if *digest == layer.digest => continue,
                Some(_) => "now has a different file",
                None => "no longer exists",
            };
            odd.push(format!(
                "configuration {} uses version {version} of {component}, which {why}; the file \
                 that the configuration uses is kept",
                configuration.name
            ));
        }
    }
    odd
}
