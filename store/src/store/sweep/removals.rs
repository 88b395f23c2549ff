//! Defines the plan of a sweep: the files and directories to remove and to keep, each with the
//! reason.

use std::collections::HashSet;
use std::path::PathBuf;

/// A kind of file or directory in an agent's directory.
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
    /// Unfinished work, or a replaced root.
    Leftover,
    /// A quarantined file.
    Quarantined,
    /// The spare root.
    Spare,
}

impl What {
    /// The word for the kind in reports.
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

/// A file or directory that a sweep removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The kind.
    pub what: What,
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// The reason for the removal.
    pub why: &'static str,
    /// The number of removed names, without the directories.
    pub files: u64,
    /// The total size in bytes of the files whose last name is removed.
    pub bytes: u64,
}

impl Removal {
    /// Converts a failed removal. `why` is the reason for the failure.
    pub(super) fn stuck(&self, why: String) -> Kept {
        Kept { what: self.what, path: self.path.clone(), why, count: 1, bytes: self.bytes }
    }
}

/// A kept file or directory, or all objects that are kept for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The kind.
    pub what: What,
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// Why the sweep keeps the file, the directory or the objects.
    pub why: String,
    /// The number of files, directories or objects.
    pub count: u64,
    /// The total size in bytes. 0 if the size was not counted.
    pub bytes: u64,
}

/// The plan of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The planned removals, in the order in which the sweep must execute them.
    pub removals: Vec<Removal>,
    /// The kept files and directories.
    pub kept: Vec<Kept>,
    /// The files and directories that the sweep cannot remove.
    pub stuck: Vec<Kept>,
    /// Whether roots share extents with objects. Shared bytes are counted for the objects only.
    pub extents_shared: bool,
}

impl Sweep {
    /// The number of removed names.
    pub fn files(&self) -> u64 {
        self.removals.iter().map(|removal| removal.files).sum()
    }

    /// The number of freed bytes.
    pub fn bytes(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }

    /// Returns the plan without the failed removals `stuck`, which are added to [`Sweep::stuck`].
    #[must_use]
    pub fn without(mut self, stuck: Vec<Kept>) -> Self {
        if !stuck.is_empty() {
            let paths: HashSet<&PathBuf> = stuck.iter().map(|it| &it.path).collect();
            self.removals.retain(|removal| !paths.contains(&removal.path));
        }
        self.stuck.extend(stuck);
        self
    }

    /// The number of planned removals of the kind `what`.
    pub fn count(&self, what: What) -> usize {
        self.removals.iter().filter(|removal| removal.what == what).count()
    }
}
