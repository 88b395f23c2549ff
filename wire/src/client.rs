//! Runs commands on a server, and transfers files, over ssh and sftp. A client has one connection,
//! which stays open until the client is dropped.

mod addresses;
mod certificate;
mod error;
mod host;
mod keys;
mod known;
mod operator;
mod rsa;
mod sftp;
mod transfer;
mod watch_channel;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle, Msg};
use russh::{
    ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Preferred, SshId, cipher,
    compression,
};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::exit;
use crate::fleet::HostName;
pub use error::ClientError;
use host::HostCheck;
pub use host::HostKey;
pub use keys::{Keys, make_key};
pub use operator::{OPERATOR_TIMEOUT, operator};
use sftp::{STALLED, Sftp};
pub use watch_channel::WatchChannel;

/// Maximum size of a command's standard output and standard error together, in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// Flow-control window of a channel: the number of bytes that the server may send before the client
/// has processed earlier bytes.
const WINDOW: u32 = 16 << 20;

/// The server, and the settings for the connection to the server.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The address as `host:port`, or several addresses, separated by commas.
    pub addr: String,
    /// The user name.
    pub user: String,
    /// The keys for logging in.
    pub keys: Keys,
    /// The way in which the client identifies the server.
    pub host: HostKey,
    /// The name of the client's host. If the field is set, the client declares this name before it
    /// opens an sftp session.
    pub declared: Option<HostName>,
    /// Maximum time for connecting to one address and logging in.
    pub timeout: Duration,
}

/// The answer to a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// The command's standard output.
    pub stdout: Vec<u8>,
    /// The command's standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub code: u8,
}

/// A connection to a server.
pub struct Client {
    handle: Handle<HostCheck>,
    sftp: OnceCell<Sftp>,
    declared: Option<HostName>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("alive", &self.is_alive()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, checks the server's key and logs in. If there are several addresses, the client
    /// begins at a random address. If a connection fails, the client tries the next address, unless
    /// every registry would refuse the client.
    pub async fn connect(connect: &Connect) -> Result<Self, ClientError> {
        let mut left = addresses::shuffled(&connect.addr);
        let Some(mut addr) = left.pop() else {
            let text = "no registry address was given; give host:port";
            return Err(ClientError::Setup(text.to_owned()));
        };
        let reach = if left.is_empty() { connect.timeout } else { addresses::TRY };
        loop {
            match Self::connect_to(connect, &addr, reach.min(connect.timeout)).await {
                Err(err) if addresses::may_help(&err) => addr = left.pop().ok_or(err)?,
                done => return done,
            }
        }
    }

    /// Connects to `addr`. `reach` is the maximum time until the server accepts the connection.
    async fn connect_to(
        connect: &Connect,
        addr: &str,
        reach: Duration,
    ) -> Result<Self, ClientError> {
        let unreachable = |cause| ClientError::Unreachable { addr: addr.to_owned(), cause };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        let check = HostCheck::new(&connect.host, addr)?;
        let key = keys::load(&connect.keys)?;
        let work = async {
            let socket = tokio::time::timeout(reach, tokio::net::TcpStream::connect(addr));
            let socket = socket.await.unwrap_or_else(|_| Err(late())).map_err(unreachable)?;
            socket.set_nodelay(true).map_err(unreachable)?;
            let config = Arc::new(config(&check));
            let mut handle = russh::client::connect_stream(config, socket, check).await?;
            keys::log_in(&mut handle, &connect.user, &connect.keys, key).await?;
            Ok(Self { handle, sftp: OnceCell::new(), declared: connect.declared.clone() })
        };
        let work = tokio::time::timeout(connect.timeout, work).await;
        work.unwrap_or_else(|_| Err(unreachable(late())))
    }

    /// Whether the connection still seems usable.
    pub fn is_alive(&self) -> bool {
        !self.handle.is_closed() && self.sftp.get().is_none_or(Sftp::is_alive)
    }

    /// The time at which the last sftp answer arrived; `None` without an sftp session.
    pub fn heard(&self) -> Option<Instant> {
        self.sftp.get().map(Sftp::heard)
    }

    /// Runs a command, and waits until the command ends.
    pub async fn exec(&self, line: &str) -> Result<Exec, ClientError> {
        let (mut reader, _writer) = self.start(line).await?;
        answer(&mut reader).await
    }

    /// Like [`Client::exec`], but passes each part of the command's standard error to `told` when
    /// the part arrives. [`Exec::stderr`] stays empty. If `columns` is given, the client sends this
    /// number as the environment variable [`PROGRESS`](crate::PROGRESS).
    pub async fn exec_told(
        &self,
        line: &str,
        columns: Option<usize>,
        told: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Exec, ClientError> {
        let channel = self.handle.channel_open_session().await?;
        if let Some(columns) = columns {
            // A registry that does not support this variable ignores the variable.
            channel.set_env(false, crate::PROGRESS, columns.to_string()).await?;
        }
        channel.exec(true, line).await?;
        let (mut reader, _writer) = channel.split();
        answer_told(&mut reader, told).await
    }

    /// Runs a command with `input` as its standard input, and waits until the command ends.
    pub async fn exec_with_input(&self, line: &str, input: &[u8]) -> Result<Exec, ClientError> {
        let (mut reader, writer) = self.start(line).await?;
        let send = async {
            // Write errors are ignored, because a broken connection also makes the wait for the
            // answer fail.
            if writer.data(input).await.is_ok() {
                let _ = writer.eof().await;
            }
        };
        let answer = answer(&mut reader);
        tokio::pin!(send, answer);
        tokio::select! {
            biased;
            // If the server refuses a command, the answer may arrive before all input is sent.
            answer = &mut answer => answer,
            () = &mut send => answer.await,
        }
    }

    async fn start(
        &self,
        line: &str,
    ) -> Result<(ChannelReadHalf, ChannelWriteHalf<Msg>), ClientError> {
        let channel = self.handle.channel_open_session().await?;
        channel.exec(true, line).await?;
        Ok(channel.split())
    }

    /// Connects `stream` to the registry's web page. Returns when the connection has ended.
    pub async fn forward_to_page<S>(&self, mut stream: S) -> Result<(), ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let channel = self.handle.channel_open_direct_tcpip("web", 80, "localhost", 0).await?;
        // Errors of the copy are ignored, because each side may end the connection at any time.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut channel.into_stream()).await;
        Ok(())
    }

    /// Sends a disconnect message. A dropped client closes the connection without such a message.
    pub async fn disconnect(&self) {
        // Errors are ignored, because the server may have closed the connection already.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "en").await;
    }

    async fn sftp(&self) -> Result<&Sftp, ClientError> {
        let open = || async {
            let stalled = |_| ClientError::Stalled { what: "open an sftp session".to_owned() };
            tokio::time::timeout(STALLED, self.open_sftp()).await.map_err(stalled)?
        };
        self.sftp.get_or_try_init(open).await
    }

    async fn open_sftp(&self) -> Result<Sftp, ClientError> {
        let mut channel = self.handle.channel_open_session().await?;
        if let Some(host) = &self.declared {
            // A registry that does not support this variable ignores the variable.
            channel.set_env(false, crate::HOST, host.as_str()).await?;
        }
        channel.request_subsystem(true, "sftp").await?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => {
                    let why = "subsystem request refused".to_owned();
                    return Err(ClientError::Refused { what: "sftp".to_owned(), why });
                }
                Some(_) => {}
                None => {
                    return Err(ClientError::Lost("the server opened no sftp session".to_owned()));
                }
            }
        }
        Sftp::start(channel.into_stream()).await.map_err(|err| ClientError::sftp("sftp", err))
    }
}

/// Waits until a command ends, and returns its answer.
async fn answer(reader: &mut ChannelReadHalf) -> Result<Exec, ClientError> {
    let mut stderr = Vec::new();
    let exec = answer_told(reader, &mut |bytes| stderr.extend_from_slice(bytes)).await?;
    Ok(Exec { stderr, ..exec })
}

/// Like [`answer`], but passes the command's standard error to `told` instead of collecting it.
async fn answer_told(
    reader: &mut ChannelReadHalf,
    told: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Exec, ClientError> {
    let mut exec = Exec::default();
    let (mut ended, mut length) = (false, 0);
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                length += data.len();
                exec.stdout.extend_from_slice(&data);
            }
            ChannelMsg::ExtendedData { data, .. } => {
                length += data.len();
                told(&data);
            }
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
        if length > MAX_ANSWER {
            let what = "the answer".to_owned();
            return Err(ClientError::TooLarge { what, limit: MAX_ANSWER });
        }
    }
    if ended {
        Ok(exec)
    } else {
        Err(ClientError::Lost("the server sent no exit status".to_owned()))
    }
}

fn config(check: &HostCheck) -> Config {
    let preferred = Preferred {
        key: check.algorithms(),
        host_key_certificates: check.certificates(),
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
