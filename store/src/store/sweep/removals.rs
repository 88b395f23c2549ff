//! The plan of a sweep: the things to remove and the things to keep, each with its reason.

use std::collections::HashSet;
use std::path::PathBuf;

/// A kind of thing in an agent's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A published root.
    Root,
    /// A record whose root is missing, or an unreadable record.
    Record,
    /// The index of an extracted layer.
    Layer,
    /// An object: the contents of a file.
    Object,
    /// A cached archive.
    Blob,
    /// A partly downloaded archive.
    Download,
    /// Unfinished work.
    Leftover,
    /// A quarantined file.
    Quarantined,
    /// The spare root.
    Spare,
}

impl What {
    /// The word for the kind.
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

/// A thing that a sweep removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The kind.
    pub what: What,
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// Why the thing is removed.
    pub why: &'static str,
    /// Number of removed names, without the directories.
    pub files: u64,
    /// Total size in bytes of the files whose last name is removed.
    pub bytes: u64,
}

impl Removal {
    /// Converts a failed removal to a kept thing.
    pub(super) fn stuck(&self, why: String) -> Kept {
        Kept { what: self.what, path: self.path.clone(), why, count: 1, bytes: self.bytes }
    }
}

/// A kept thing. All objects that are kept for the same reason form one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The kind.
    pub what: What,
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// Why the thing is kept.
    pub why: String,
    /// The number of things.
    pub count: u64,
    /// The total size in bytes, if it was counted.
    pub bytes: u64,
}

/// The plan of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The things to remove, in the order in which they must be removed.
    pub removals: Vec<Removal>,
    /// The kept things.
    pub kept: Vec<Kept>,
    /// The things that stay because they cannot be removed.
    pub stuck: Vec<Kept>,
    /// Whether roots share extents with objects. Shared bytes count as bytes of the objects.
    pub extents_shared: bool,
}

impl Sweep {
    /// Number of removed names.
    pub fn files(&self) -> u64 {
        self.removals.iter().map(|removal| removal.files).sum()
    }

    /// Number of freed bytes.
    pub fn bytes(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }

    /// The plan without the things in `stuck`, which could not be removed.
    #[must_use]
    pub fn without(mut self, stuck: Vec<Kept>) -> Self {
        if !stuck.is_empty() {
            let paths: HashSet<&PathBuf> = stuck.iter().map(|it| &it.path).collect();
            self.removals.retain(|removal| !paths.contains(&removal.path));
        }
        self.stuck.extend(stuck);
        self
    }

    /// Number of removed things of a kind.
    pub fn count(&self, what: What) -> usize {
        self.removals.iter().filter(|removal| removal.what == what).count()
    }
}
