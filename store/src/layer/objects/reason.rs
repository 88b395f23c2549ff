//! Defines the reasons why the file at a path is not shared between roots.

/// The reason why each root gets its own copy of the file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrivateReason {
    /// The contents were changed in place.
    Written,
    /// The owner, mode, time or attributes were changed.
    Metadata,
    /// A process had the file open for writing.
    Open,
    /// The file was renamed, or a hardlink to the file was made.
    Renamed,
}

impl PrivateReason {
    const ALL: [Self; 4] = [Self::Written, Self::Metadata, Self::Open, Self::Renamed];

    /// The word for the reason in the file of private paths and in the output of `status -json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Metadata => "metadata",
            Self::Open => "open",
            Self::Renamed => "renamed",
        }
    }

    /// The reason in words for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Written => "its contents were changed in a root",
            Self::Metadata => "its owner, mode, time or attributes were changed in a root",
            Self::Open => "a process had it open for writing",
            Self::Renamed => "it was renamed or linked in a root",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.word() == word)
    }
}
