//! The errors of the registry. `console/exit_codes.rs` chooses the exit code for each error.
//! `ssh/sftp/packets.rs` chooses the status for an sftp client.

use deploy_store::Digest;

/// Why an operation of the registry or of its catalogue failed. The text says what failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object that the caller named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Layers of an image are neither stored nor staged. An importer sends these layers again.
    #[error("{0}")]
    MissingLayers(String),
    /// The change conflicts with something that exists.
    #[error("{0}")]
    Conflict(String),
    /// A name is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// No agent could unpack the archive.
    #[error("no agent could unpack {digest}: {cause}")]
    BadArchive {
        /// The staged blob.
        digest: Digest,
        /// Why an agent could not unpack the archive.
        cause: deploy_store::Error,
    },
    /// A blob or the catalogue is damaged, or a blob is missing.
    #[error("{0}")]
    Damaged(String),
    /// Too many operations are in progress. A later attempt may succeed.
    #[error("{0}")]
    Busy(String),
    /// The upload is larger than a limit allows, or larger than the free space.
    #[error("{0}")]
    OverLimit(String),
    /// Another failure.
    #[error("{0}")]
    Failed(String),
    /// An upload is complete, but no version could be bound to it.
    #[error("{cause}; the upload stays staged for a while as -hash={digest}")]
    NotBound {
        /// The staged blob.
        digest: Digest,
        /// Why the version could not be made.
        cause: Box<Error>,
    },
    /// The disk or a file failed.
    #[error(transparent)]
    Store(deploy_store::Error),
    /// The database failed.
    #[error("{0}")]
    Database(String),
    /// The database did not answer in time.
    #[error("{0}")]
    NoAnswer(String),
}

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
