//! Defines the errors of the communication with a server, and the exit code of each error.

use std::io;
use std::path::PathBuf;

use deploy_store::Size;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;

use super::sftp::STALLED;
use crate::exit;

/// The reason why the communication with a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server cannot be reached.
    #[error("dial tcp {addr}: {cause}")]
    Unreachable {
        /// The address.
        addr: String,
        /// The cause.
        cause: io::Error,
    },
    /// The server's key is not the expected key.
    #[error(
        "ssh: handshake failed: host key fingerprint mismatch: {found}; expected {expected}: is \
         this the right server?"
    )]
    HostKeyMismatch {
        /// The fingerprint of the server's key.
        found: String,
        /// A description of the expected key.
        expected: String,
    },
    /// The server's key is not known.
    #[error(
        "ssh: handshake failed: host key of {addr} is not in {}: its fingerprint is {found}; if this \
         fingerprint is right, give it with -fp or connect with ssh once",
        file.display()
    )]
    HostUnknown {
        /// The address.
        addr: String,
        /// The fingerprint of the server's key.
        found: String,
        /// The `known_hosts` file.
        file: PathBuf,
    },
    /// The server refused the login.
    #[error(
        "ssh: unable to authenticate as user {user:?} with the keys tried ({tried}): is the key \
         in the registry's key file of {}, not expired, and allowed from here? the registry's log \
         has the reason",
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
        /// The reason why the key cannot be used.
        why: String,
    },
    /// A setting is missing or invalid. For example, the client has no key for the login, or cannot
    /// check the server's key.
    #[error("{0}")]
    Setup(String),
    /// The connection was lost, or the server broke the protocol.
    #[error("connection to the registry lost: {0}")]
    Lost(String),
    /// The connection is open, but no answer arrives.
    #[error("{what}: no answer for {} seconds", STALLED.as_secs())]
    Stalled {
        /// The failed action of the client, or the path of the file.
        what: String,
    },
    /// The server refused a request.
    #[error("{what}: {why}")]
    Refused {
        /// The failed action of the client, or the path of the file.
        what: String,
        /// The reason. This is the server's message if the server sent one.
        why: String,
    },
    /// The server does not have the file.
    #[error("{what}: {why}")]
    NotFound {
        /// The failed action of the client, or the path of the file.
        what: String,
        /// The reason. This is the server's message if the server sent one.
        why: String,
    },
    /// A received value is over a limit.
    #[error("{what} is larger than {}", Size(*limit as u64))]
    TooLarge {
        /// A description of the received value, or the path of the file.
        what: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The function that receives the downloaded bytes failed.
    #[error(transparent)]
    Sink(#[from] deploy_store::Error),
}

/// Describes the keys that the server accepts from `user`, and names the server's flag for the file
/// with these keys.
fn role(user: &str) -> &'static str {
    if user == super::operator::AGENT {
        "agents (-srvauth; an operator's key does not count)"
    } else {
        "operators (-opauth; an agent's key does not count)"
    }
}

impl ClientError {
    /// The exit code of the error.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) | Self::Stalled { .. } => exit::UNREACHABLE,
            Self::Denied { .. } => exit::DENIED,
            Self::NotFound { .. } => exit::NOT_FOUND,
            _ => exit::FAILED,
        }
    }

    /// Converts an error of the sftp library. `what` is the failed action or the path of the file.
    /// If the server has sent a message, the result contains this message.
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
