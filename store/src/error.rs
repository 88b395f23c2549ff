//! Defines the only error type of the store. The text of an error states what failed, on which file
//! or name, and why. `source` returns `None`, because the text already includes the cause.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::size::Size;

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file or directory failed.
    #[error("{action} {}: {cause}", path.display())]
    Io {
        /// The action as a verb, for example `create` or `rename`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why the operation failed.
        cause: io::Error,
    },
    /// A mount or a missing permission prevents the move of a root's directory.
    #[error("{action} {}: {cause}", path.display())]
    RootHeld {
        /// The action, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why the operation failed.
        cause: io::Error,
    },
    /// The received bytes do not have the announced digest.
    #[error("content of {what} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// The source of the bytes, for example a path.
        what: String,
        /// The announced digest.
        expected: Digest,
        /// The digest of the received bytes.
        found: Digest,
    },
    /// There is no blob with this digest.
    #[error("no blob {0} in the store")]
    NoSuchBlob(Digest),
    /// A name, digest or similar text has the wrong form.
    #[error("{what} {}: {reason}", quoted(text))]
    BadName {
        /// The kind of text, for example `component name`.
        what: &'static str,
        /// The refused text.
        text: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// A configuration breaks a rule or contradicts itself.
    #[error("configuration {}: {reason}", quoted(name))]
    BadConfiguration {
        /// The configuration's name; empty if the name is not known.
        name: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// An archive is invalid or cannot be read. The error does not concern a single entry.
    #[error("archive: {reason}")]
    BadArchive {
        /// What is wrong with the archive.
        reason: String,
    },
    /// A path pattern is invalid.
    #[error("invalid path pattern: {cause}")]
    BadGlob {
        /// What is wrong with the pattern.
        cause: globset::Error,
    },
    /// An archive holds an entry that cannot be unpacked.
    #[error("archive entry {}: {reason}", quoted(entry))]
    BadEntry {
        /// The entry's name. Bytes that are not UTF-8 are replaced.
        entry: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// A size or a count exceeds a limit.
    #[error("{what} is over the limit of {}", counted(what, *limit))]
    OverLimit {
        /// The measured quantity, for example `size of the upload`.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Another process has locked the directory or file.
    #[error("{} is in use by another process{}", path.display(), holder(*pid))]
    Busy {
        /// The directory or file.
        path: PathBuf,
        /// The id of the process that holds the lock; `None` if the system does not report the
        /// process.
        pid: Option<u32>,
    },
    /// A file of the store is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// A newer program wrote this file of the store. This program must not change the file.
    #[error("{} is a {what} of a newer format: use a newer program", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The kind of file, for example `layer index`.
        what: &'static str,
    },
}

impl Error {
    /// Makes an [`Error::Io`] for `action` on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, cause: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.as_ref().to_owned(), cause: cause.into() }
    }

    /// Makes an [`Error::BadArchive`].
    pub(crate) fn bad_archive(reason: &str) -> Self {
        Self::BadArchive { reason: reason.to_owned() }
    }

    /// Whether the cause is a missing permission.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether the cause is a missing file or directory.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }

    /// Converts the error of a failed move of a root's directory. If the cause is a mount or a
    /// missing permission, the result is [`Error::RootHeld`]. Other errors stay as they are.
    pub(crate) fn of_moving_root(self) -> Self {
        use io::ErrorKind::{CrossesDevices, PermissionDenied, ResourceBusy};
        let held = |kind| matches!(kind, CrossesDevices | PermissionDenied | ResourceBusy);
        match self {
            Self::Io { action, path, cause } if held(cause.kind()) => {
                Self::RootHeld { action, path, cause }
            }
            other => other,
        }
    }

    /// Whether the error is an [`Error::RootHeld`].
    pub fn is_root_held(&self) -> bool {
        matches!(self, Self::RootHeld { .. })
    }

    /// Whether the cause is an exhausted quota.
    pub fn is_over_quota(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::QuotaExceeded)
    }

    /// Whether the cause is a full disk or an exhausted quota.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let full = |kind| matches!(kind, StorageFull | QuotaExceeded);
        matches!(self, Self::Io { cause, .. } if full(cause.kind()))
    }
}

/// Converts an error about a missing file or directory to `None`.
pub(crate) fn if_exists<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(err) if err.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Quotes and escapes text from outside the program, so that the text cannot send control sequences
/// to a terminal.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Formats a limit in the unit of the measured quantity.
fn counted(what: &str, limit: u64) -> String {
    let is_size = ["size of", "bytes of"].iter().any(|start| what.starts_with(start));
    if is_size { Size(limit).to_string() } else { limit.to_string() }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
