//! Why talking to a server failed, and the exit code that stands for it.

use std::io;
use std::path::PathBuf;

use deploy_store::Size;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;

use super::sftp::STALLED;
use crate::exit;

/// Why talking to a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It cannot be reached.
    #[error("dial tcp {addr}: {cause}")]
    Unreachable {
        /// The address.
        addr: String,
        /// Why.
        cause: io::Error,
    },
    /// Its key is not the one expected.
    #[error(
        "ssh: handshake failed: host key fingerprint mismatch: {found}; expected {expected}: is \
         this the right server?"
    )]
    HostKeyMismatch {
        /// Fingerprint of the key it has.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Nothing is known about its key.
    #[error(
        "ssh: handshake failed: host key of {addr} is not in {}: it is {found}; if that is right, \
         give it with -fp or connect with ssh once", file.display()
    )]
    HostUnknown {
        /// The address.
        addr: String,
        /// Fingerprint of the key it has.
        found: String,
        /// The `known_hosts` file.
        file: PathBuf,
    },
    /// It does not let us in.
    #[error(
        "ssh: unable to authenticate as user {user:?} with the keys tried ({tried}): is the key \
         in the registry's key file of {}, not expired, and allowed from here? the registry's log \
         says which it is",
        role(user)
    )]
    Denied {
        /// The user name.
        user: String,
        /// The keys that were tried.
        tried: String,
    },
    /// A key cannot be used.
    #[error("failed to read/parse key file {:?}: {why}", path.display().to_string())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no key to try, or no known host to compare with.
    #[error("{0}")]
    Setup(String),
    /// The connection was lost, or the server broke the protocol.
    #[error("connection to the registry lost: {0}")]
    Lost(String),
    /// The connection stands, but nothing comes.
    #[error("{what}: no answer for {} seconds", STALLED.as_secs())]
    Stalled {
        /// What was being done.
        what: String,
    },
    /// The server refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was being done.
        what: String,
        /// What the server says.
        why: String,
    },
    /// The server does not have it.
    #[error("{what}: {why}")]
    NotFound {
        /// What was being done.
        what: String,
        /// What the server says.
        why: String,
    },
    /// What came is over a limit.
    #[error("{what} is larger than {}", Size(*limit as u64))]
    TooLarge {
        /// What came.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// What was to take the bytes failed.
    #[error(transparent)]
    Sink(#[from] deploy_store::Error),
}

/// Whose key file decides.
fn role(user: &str) -> &'static str {
    if user == super::operator::AGENT {
        "agents (-srvauth; an operator's is none)"
    } else {
        "operators (-opauth; an agent's is none)"
    }
}

impl ClientError {
    /// The exit code that stands for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) | Self::Stalled { .. } => exit::UNREACHABLE,
            Self::Denied { .. } => exit::DENIED,
            Self::NotFound { .. } => exit::NOT_FOUND,
            _ => exit::FAILED,
        }
    }

    /// What became of `what`, in the words of the server if it said something.
    pub(super) fn sftp(what: &str, err: SftpError) -> Self {
        let what = what.to_owned();
        match err {
            SftpError::Status(status) => {
                let why = match deploy_store::escape(&status.error_message) {
                    said if said.is_empty() => status.status_code.to_string(),
                    said => said,
                };
                match status.status_code {
                    StatusCode::NoSuchFile => Self::NotFound { what, why },
                    _ => Self::Refused { what, why },
                }
            }
            SftpError::Timeout => Self::Stalled { what },
            other => Self::Lost(deploy_store::escape(&other.to_string())),
        }
    }
}

impl From<russh::Error> for ClientError {
    fn from(err: russh::Error) -> Self {
        Self::Lost(deploy_store::escape(&err.to_string()))
    }
}
