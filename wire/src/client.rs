//! The ssh and sftp client: one connection, kept as long as its user likes.

mod host;
mod keys;
mod transfer;

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle};
use russh::{ChannelMsg, Disconnect, Preferred, SshId, cipher, compression};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::{OpenFlags, StatusCode};
use tokio::sync::OnceCell;

use crate::exit;
use host::HostCheck;
pub use host::HostKey;
pub use keys::Keys;

/// Largest answer to a command that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// Seconds without an answer after which a transfer is given up.
const STALLED: u64 = 60;
/// Flow control window of a channel: what may be under way towards us.
const WINDOW: u32 = 16 << 20;

/// Where to connect to, and how.
#[derive(Debug, Clone)]
pub struct Connect {
    /// `host:port`
    pub addr: String,
    /// User name.
    pub user: String,
    /// What to log in with.
    pub keys: Keys,
    /// How to know the server.
    pub host: HostKey,
    /// Time for connecting and logging in.
    pub timeout: Duration,
}

/// Why talking to a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It cannot be reached.
    #[error("dial tcp {addr}: {source}")]
    Unreachable {
        /// The address.
        addr: String,
        /// Why.
        source: io::Error,
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
    /// It does not let us in.
    #[error(
        "ssh: unable to authenticate as user {user:?} with the keys tried ({tried}): is the key \
         in the registry's key file?"
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
    /// The server refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was being done.
        what: String,
        /// What the server says.
        why: String,
    },
    /// What came is over a limit.
    #[error("{what} is larger than {limit} bytes")]
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

impl ClientError {
    /// The exit code that stands for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) => exit::UNREACHABLE,
            Self::Denied { .. } => exit::DENIED,
            _ => exit::FAILED,
        }
    }
}

impl From<russh::Error> for ClientError {
    fn from(err: russh::Error) -> Self {
        Self::Lost(err.to_string())
    }
}

impl From<russh_sftp::client::error::Error> for ClientError {
    fn from(err: russh_sftp::client::error::Error) -> Self {
        Self::Lost(err.to_string())
    }
}

/// The answer to a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub code: u8,
}

/// A connection to a server.
pub struct Client {
    handle: Handle<HostCheck>,
    sftp: OnceCell<Sftp>,
}

/// The connection's sftp session, with what one packet may carry.
struct Sftp {
    raw: RawSftpSession,
    read: u32,
    write: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("alive", &self.is_alive()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, checks the server's key and logs in.
    pub async fn connect(connect: &Connect) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { addr: connect.addr.clone(), source };
        let work = async {
            let socket =
                tokio::net::TcpStream::connect(&connect.addr).await.map_err(unreachable)?;
            socket.set_nodelay(true).map_err(unreachable)?;
            let check = HostCheck::new(&connect.host, &connect.addr)?;
            let mut handle =
                russh::client::connect_stream(Arc::new(config()), socket, check).await?;
            keys::log_in(&mut handle, &connect.user, &connect.keys).await?;
            Ok(Self { handle, sftp: OnceCell::new() })
        };
        tokio::time::timeout(connect.timeout, work).await.unwrap_or_else(|_| {
            Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
        })
    }

    /// Whether the connection still stands, as far as is known.
    pub fn is_alive(&self) -> bool {
        !self.handle.is_closed()
    }

    /// Runs a command and waits for its end.
    pub async fn exec(&self, line: &str) -> Result<Exec, ClientError> {
        let mut channel = self.handle.channel_open_session().await?;
        channel.exec(true, line).await?;
        let mut exec = Exec::default();
        let mut ended = false;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => exec.stdout.extend_from_slice(&data),
                ChannelMsg::ExtendedData { data, .. } => exec.stderr.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => {
                    exec.code = u8::try_from(exit_status).unwrap_or(exit::FAILED);
                    ended = true;
                }
                ChannelMsg::Failure => {
                    let (what, why) = ("run a command", "exec request refused");
                    return Err(ClientError::Refused { what: what.into(), why: why.into() });
                }
                _ => {}
            }
            if exec.stdout.len() + exec.stderr.len() > MAX_ANSWER {
                let what = "the answer".to_owned();
                return Err(ClientError::TooLarge { what, limit: MAX_ANSWER });
            }
        }
        if ended { Ok(exec) } else { Err(ClientError::Lost("no exit status came".to_owned())) }
    }

    /// The contents of a small file, or `None` if it is not there.
    pub async fn read_small(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ClientError> {
        let sftp = self.sftp().await?;
        let opened =
            sftp.raw.open(path, OpenFlags::READ, russh_sftp::protocol::FileAttributes::empty());
        let handle = match opened.await {
            Ok(handle) => handle.handle,
            Err(err) if is_status(&err, StatusCode::NoSuchFile) => return Ok(None),
            Err(err) => return Err(refused(path, err)),
        };
        let mut contents = Vec::new();
        let result = loop {
            match sftp.raw.read(&handle, contents.len() as u64, sftp.read).await {
                Ok(data) => contents.extend_from_slice(&data.data),
                Err(err) if is_status(&err, StatusCode::Eof) => break Ok(Some(contents)),
                // The Go registry opens whatever is asked for.
                Err(err) if is_status(&err, StatusCode::NoSuchFile) => break Ok(None),
                Err(err) => break Err(refused(path, err)),
            }
            if contents.len() > limit {
                break Err(ClientError::TooLarge { what: path.to_owned(), limit });
            }
        };
        sftp.raw.close(&handle).await.map_err(|err| refused(path, err))?;
        result
    }

    /// Says good-bye. Dropping the client closes the connection without.
    pub async fn disconnect(&self) {
        // The server may have closed it already.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "en").await;
    }

    async fn sftp(&self) -> Result<&Sftp, ClientError> {
        self.sftp.get_or_try_init(|| self.open_sftp()).await
    }

    async fn open_sftp(&self) -> Result<Sftp, ClientError> {
        /// What every server takes.
        const SMALL: u64 = 32 << 10;
        const LARGEST: u64 = 255 << 10;
        let channel = self.handle.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let mut raw = RawSftpSession::new(channel.into_stream());
        raw.set_timeout(STALLED);
        let version = raw.init().await?;
        let (mut read, mut write) = (SMALL, SMALL);
        if version.extensions.contains_key("limits@openssh.com") {
            let limits = raw.limits().await?;
            let usable = |most: u64| if most == 0 { SMALL } else { most.min(LARGEST) };
            (read, write) = (usable(limits.max_read_len), usable(limits.max_write_len));
            raw.set_limits(limits.into());
        }
        let fits = "at most 255 KiB";
        Ok(Sftp {
            raw,
            read: u32::try_from(read).expect(fits),
            write: usize::try_from(write).expect(fits),
        })
    }
}

fn is_status(err: &russh_sftp::client::error::Error, code: StatusCode) -> bool {
    matches!(err, russh_sftp::client::error::Error::Status(status) if status.status_code == code)
}

/// What the server says about `what`.
fn refused(what: &str, err: russh_sftp::client::error::Error) -> ClientError {
    match err {
        russh_sftp::client::error::Error::Status(status) => ClientError::Refused {
            what: what.to_owned(),
            why: deploy_store::escape(&status.error_message),
        },
        other => other.into(),
    }
}

fn config() -> Config {
    let preferred = Preferred {
        cipher: Cow::Borrowed(&[
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_CTR,
            cipher::AES_256_CTR,
        ]),
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::default()
    };
    let id = concat!("SSH-2.0-deploy-tools_", env!("CARGO_PKG_VERSION"));
    Config {
        client_id: SshId::Standard(Cow::Borrowed(id)),
        window_size: WINDOW,
        maximum_packet_size: 65_535,
        preferred,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    }
}
