//! Defines the error type of the importer, and the exit code of each error.

use std::io;
use std::path::PathBuf;

use deploy_wire::exit;

/// The result of a step of an import.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why an image was not imported. A failed import may leave uploaded blobs on a
/// registry, versions on a Go registry, and layers in a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input cannot be read.
    #[error("read {}: {cause}", what.escape_debug())]
    Input {
        /// The name of the input that was read.
        what: String,
        /// The reason why the operation failed.
        cause: io::Error,
    },
    /// The input is not an image archive.
    #[error("the image archive {reason}")]
    Archive {
        /// The description of the defect.
        reason: String,
    },
    /// A file of the image archive is missing or invalid.
    #[error("{item:?} in the image archive {reason}")]
    Item {
        /// The name or digest of the file.
        item: String,
        /// The description of the defect.
        reason: String,
    },
    /// No image matches the request, several images match it, or the matching image is empty or has
    /// no name. Also used if the destination cannot take the requested layers.
    #[error("{0}")]
    Choice(String),
    /// An entry of a layer cannot be put on top of the lower layers.
    #[error("entry {entry:?} of layer {layer}: {reason}")]
    Entry {
        /// The layer's number in the image, from 1.
        layer: usize,
        /// The path of the entry.
        entry: String,
        /// The description of the defect.
        reason: String,
    },
    /// A temporary file cannot be used.
    #[error("{action} a temporary file in {}: {cause}", dir.display())]
    Temporary {
        /// The failed action, as a verb, such as `make`.
        action: &'static str,
        /// The directory.
        dir: PathBuf,
        /// The reason why the operation failed.
        cause: io::Error,
    },
    /// The cache of earlier layers cannot be used.
    #[error("use the cache directory {}: {reason} (-cache-dir chooses another directory, -no-cache uses none)", dir.display())]
    Cache {
        /// The directory.
        dir: PathBuf,
        /// The reason why the cache cannot be used.
        reason: String,
    },
    /// A name is invalid, so the registry would refuse it.
    #[error("{source}; give another name with -name")]
    Name {
        /// The description of the defect.
        source: deploy_store::Error,
    },
    /// Another failure, for example a refusal by the registry.
    #[error("{text}")]
    Refused {
        /// The message for the user.
        text: String,
        /// Exit code.
        code: u8,
    },
    /// Files cannot be written.
    #[error("write {}: {cause}", path.display())]
    Output {
        /// The file or directory.
        path: PathBuf,
        /// The reason why the operation failed.
        cause: io::Error,
    },
    /// The blobs of the image disappeared several times.
    #[error("{0}; the importer gave up after several attempts")]
    Vanishing(String),
}

impl Error {
    /// The hint that `deploy-from-docker` adds to the message: the flag that may help, or nothing.
    /// The registry adds no hint, because its imports do not have these flags.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Temporary { .. } => " (-tmpdir chooses another place)",
            _ => "",
        }
    }

    /// The exit code for the error.
    pub fn code(&self) -> u8 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Vanishing(_) => exit::NOT_FOUND,
            _ => exit::FAILED,
        }
    }

    pub(crate) fn archive(reason: impl Into<String>) -> Self {
        Self::Archive { reason: reason.into() }
    }

    pub(crate) fn item(item: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Item { item: item.into(), reason: reason.into() }
    }
}
