//! What a sweep does: what goes and what stays, each with its reason.

use std::collections::HashSet;
use std::path::PathBuf;

/// A kind of thing in an agent's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A published root.
    Root,
    /// The record of a root that is not there.
    Record,
    /// The index of an extracted layer.
    Layer,
    /// A file's contents.
    Object,
    /// A cached archive.
    Blob,
    /// An archive that is not all here yet.
    Download,
    /// What was left half done.
    Leftover,
    /// What was set aside as damaged.
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

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// What it is.
    pub what: What,
    /// Where, in the agent's directory.
    pub path: PathBuf,
    /// Why it goes.
    pub why: &'static str,
    /// Names that go, directories not counted.
    pub files: u64,
    /// Bytes of files whose last name goes with it.
    pub bytes: u64,
}

impl Removal {
    /// What stays of it.
    pub(super) fn stuck(&self, why: String) -> Kept {
        Kept { what: self.what, path: self.path.clone(), why, count: 1, bytes: self.bytes }
    }
}

/// Something that stays; of objects all that stay for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is.
    pub what: What,
    /// Where, in the agent's directory.
    pub path: PathBuf,
    /// Why it stays.
    pub why: String,
    /// How many things this stands for.
    pub count: u64,
    /// Its bytes, where they were counted.
    pub bytes: u64,
}

/// What a sweep is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// What goes, in the order in which it has to.
    pub removals: Vec<Removal>,
    /// What stays.
    pub kept: Vec<Kept>,
    /// What stays because it cannot be removed.
    pub stuck: Vec<Kept>,
    /// Whether roots share extents with objects, which then count for both.
    pub extents_shared: bool,
}

impl Sweep {
    /// Names that go.
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

    /// How many of a kind go.
    pub fn count(&self, what: What) -> usize {
        self.removals.iter().filter(|removal| removal.what == what).count()
    }
}
