//! The result of planning a sweep: what is removed and what is kept, each with its reason.

use std::collections::HashSet;
use std::path::PathBuf;

/// A kind of thing in an agent's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A published root.
    Root,
    /// The record of a root without its directory.
    Record,
    /// The index of an extracted layer.
    Layer,
    /// A file's contents.
    Object,
    /// A cached archive.
    Blob,
    /// A partly downloaded archive.
    Download,
    /// Unfinished work.
    Leftover,
    /// A damaged file that was set aside.
    Quarantined,
    /// The spare root.
    Spare,
}

impl What {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Record => "record",
            Self::Layer => "layer",
            Self::Object => "object",
            Self::Blob => "blob",
            Self::Download => "download",
            Self::Leftover => "leftover",
            Self::Quarantined => "quarantined",
            Self::Spare => "spare",
        }
    }
}

/// A thing that is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its kind.
    pub what: What,
    /// Its path in the agent's directory.
    pub path: PathBuf,
    /// Why it is removed.
    pub why: &'static str,
    /// Number of removed names, directories not counted.
    pub files: u64,
    /// Bytes of files whose last name is removed.
    pub bytes: u64,
}

impl Removal {
    /// The same as kept, if removing it failed.
    pub(super) fn stuck(&self, why: String) -> Kept {
        Kept { what: self.what, path: self.path.clone(), why, count: 1, bytes: self.bytes }
    }
}

/// A thing that is kept. All objects that are kept for one reason are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its kind.
    pub what: What,
    /// Its path in the agent's directory.
    pub path: PathBuf,
    /// Why it is kept.
    pub why: String,
    /// How many things this stands for.
    pub count: u64,
    /// Its bytes, if they were counted.
    pub bytes: u64,
}

/// The plan of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// What is removed, in the necessary order.
    pub removals: Vec<Removal>,
    /// What is kept.
    pub kept: Vec<Kept>,
    /// What stays because it cannot be removed.
    pub stuck: Vec<Kept>,
    /// Whether roots share extents with objects, which then count for both.
    pub extents_shared: bool,
}

impl Sweep {
    /// Number of removed names.
    pub fn files(&self) -> u64 {
        self.removals.iter().map(|removal| removal.files).sum()
    }

    /// Bytes that are freed.
    pub fn bytes(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }

    /// The same without what turned out to be `stuck`.
    #[must_use]
    pub fn without(mut self, stuck: Vec<Kept>) -> Self {
        if !stuck.is_empty() {
            let paths: HashSet<&PathBuf> = stuck.iter().map(|it| &it.path).collect();
            self.removals.retain(|removal| !paths.contains(&removal.path));
        }
        self.stuck.extend(stuck);
        self
    }

    /// How many things of a kind are removed.
    pub fn count(&self, what: What) -> usize {
        self.removals.iter().filter(|removal| removal.what == what).count()
    }
}
