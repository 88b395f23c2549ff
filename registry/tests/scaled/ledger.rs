//! What the registries have acknowledged, and what is not yet known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use deploy_store::Digest;

/// How many lines of the log a failure prints.
const LINES: usize = 400;
/// How many characters of each line are kept.
const LONGEST: usize = 300;
/// The flag `-maxver` of the registries.
pub const MAX_VERSIONS: usize = 4;

/// An acknowledged version.
#[derive(Debug, Clone)]
pub struct Version {
    pub name: String,
    pub digest: Digest,
    pub pinned: bool,
    /// Whether a client has asked for the deletion of the version, or no longer knows whether the
    /// version is kept.
    pub deleting: bool,
}

/// What a client knows about a change that it has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unknown,
    Done,
}

/// The acknowledged versions and changes, and a log for failures.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub struct Inner {
    /// The versions of each component, oldest first.
    pub versions: BTreeMap<String, Vec<Version>>,
    /// The number of the text of each version that a client has asked for.
    pub texts: BTreeMap<String, usize>,
    /// The changes of each configuration, by the version that only this change sets.
    pub changes: BTreeMap<String, BTreeMap<String, Outcome>>,
    pub done: BTreeMap<&'static str, u64>,
    log: VecDeque<String>,
}

impl Ledger {
    pub fn new() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }

    pub fn open(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the log.
    pub fn note(&self, line: impl AsRef<str>) {
        let seconds = self.began.elapsed().as_secs_f64();
        let line: String = line.as_ref().chars().take(LONGEST).collect();
        let mut inner = self.open();
        if inner.log.len() == LINES {
            inner.log.pop_front();
        }
        inner.log.push_back(format!("{seconds:8.3} {line}"));
    }

    pub fn count(&self, what: &'static str) {
        *self.open().done.entry(what).or_default() += 1;
    }

    pub fn log(&self) -> Vec<String> {
        self.open().log.iter().cloned().collect()
    }
}

impl Inner {
    pub fn version(&mut self, component: &str, name: &str) -> Option<&mut Version> {
        self.versions.get_mut(component)?.iter_mut().find(|version| version.name == name)
    }

    /// The versions of a component that no gc may remove: the pinned ones, and the newest ones. One
    /// more version may be under way, and a frozen registry may add one again, so this function
    /// returns two fewer than gc keeps.
    pub fn required(&self, component: &str) -> Vec<Version> {
        let versions = self.versions.get(component).map_or(&[][..], Vec::as_slice);
        let newest = versions.iter().rev().take(MAX_VERSIONS - 2);
        let newest: Vec<&str> = newest.map(|version| version.name.as_str()).collect();
        let is_required =
            |version: &&Version| version.pinned || newest.contains(&version.name.as_str());
        let kept = versions.iter().filter(is_required);
        kept.filter(|version| !version.deleting).cloned().collect()
    }

    pub fn is_required(&self, component: &str, name: &str) -> bool {
        self.required(component).iter().any(|version| version.name == name)
    }

    pub fn components(&self) -> Vec<String> {
        self.versions.keys().cloned().collect()
    }

    pub fn set(&mut self, configuration: &str, version: &str, outcome: Outcome) {
        let changes = self.changes.entry(configuration.to_owned()).or_default();
        changes.insert(version.to_owned(), outcome);
    }
}
