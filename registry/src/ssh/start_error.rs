//! Defines the errors that keep the server from starting.

use std::io;
use std::path::PathBuf;

use deploy_store::Size;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key file cannot be read.
    #[error("open {}: {}{}", path.display(), plain(cause), init(cause))]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why the operation failed.
        cause: io::Error,
    },
    /// A key file is larger than the limit.
    #[error("key file {path:?} is larger than {}", Size(*limit))]
    KeyFileTooLong {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A key file has no key.
    #[error("file {path:?} should have at least one key")]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// A key file holds a private key.
    #[error(
        "file {path:?} should have at least one key; it is a private key: give the file of the public key, which ends in .pub"
    )]
    Private {
        /// The file.
        path: PathBuf,
    },
    /// The host key cannot be used.
    #[error("host key {}: {reason}", path.display())]
    HostKey {
        /// The file.
        path: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },
    /// The host key cannot be written.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The catalogue cannot be read.
    #[error(transparent)]
    Catalogue(#[from] crate::error::Error),
    /// The server cannot listen on the address.
    #[error("listen tcp {address}: {}{}", plain(cause), advice(cause))]
    Listen {
        /// The address that the user gave, or the address that its name stands for.
        address: String,
        /// Why the operation failed.
        cause: io::Error,
    },
}

/// What to do if a key file does not exist.
fn init(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::NotFound => {
            "; deploy-registry init creates the files of a new registry; -opauth and -srvauth name the key files"
        }
        _ => "",
    }
}

/// The text of a system error, without its number and with a lowercase first letter.
pub(crate) fn plain(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn advice(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::AddrInUse => "; stop the program that listens there or give another -addr",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: give another -addr",
        io::ErrorKind::InvalidInput => "; give -addr as host:port",
        io::ErrorKind::AddrNotAvailable => "; give the -addr of an interface of this machine",
        _ => "",
    }
}
