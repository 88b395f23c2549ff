//! Defines the errors of the registry. `console/exit_codes.rs` chooses the exit code for each
//! error. `ssh/sftp/packets.rs` chooses the status for an sftp client.

use deploy_store::Digest;

/// Why an operation of the registry or of its catalogue failed. The text says what failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, version or other item that the caller named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Layers of an image are neither stored nor staged. The importer has to send these layers.
    #[error("{0}")]
    MissingLayers(String),
    /// The change conflicts with the present data of the registry.
    #[error("{0}")]
    Conflict(String),
    /// A name or the value of a flag is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// No agent could unpack the archive.
    #[error("no agent could unpack {digest}: {cause}")]
    BadArchive {
        /// The digest of the staged blob.
        digest: Digest,
        /// Why an agent could not unpack the archive.
        cause: deploy_store::Error,
    },
    /// A blob or the catalogue is damaged, or a blob is missing.
    #[error("{0}")]
    Damaged(String),
    /// Too many operations are in progress, or the data changed during each attempt. A later
    /// attempt may succeed.
    #[error("{0}")]
    Busy(String),
    /// The command exceeds a limit, or the upload is larger than the free space.
    #[error("{0}")]
    OverLimit(String),
    /// A failure that has no variant of its own.
    #[error("{0}")]
    Failed(String),
    /// An upload is complete, but the registry could not bind a version to this upload.
    #[error("{cause}; the upload stays staged for a while, and addver can bind it: -hash={digest}")]
    NotBound {
        /// The digest of the staged blob.
        digest: Digest,
        /// Why the registry could not bind a version to the upload.
        cause: Box<Error>,
    },
    /// An operation on a file or on the disk failed.
    #[error(transparent)]
    Store(deploy_store::Error),
    /// The database failed.
    #[error("{0}")]
    Database(String),
    /// The database did not answer in time, or the connection to the database is lost.
    #[error("{0}")]
    NoAnswer(String),
}

/// The clause with which an error of the catalogue says that the failed statement has changed nothing.
pub const UNCHANGED: &str = "; nothing was changed";

/// The result of an operation of the registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<deploy_store::Error> for Error {
    fn from(err: deploy_store::Error) -> Self {
        match err {
            deploy_store::Error::BadName { .. } => Self::Invalid(err.to_string()),
            deploy_store::Error::NoSuchBlob(_) => Self::NotFound(err.to_string()),
            deploy_store::Error::Corrupt { .. } => Self::Damaged(err.to_string()),
            other => Self::Store(other),
        }
    }
}
