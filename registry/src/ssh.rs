//! The registry's ssh server: accepts connections and serves each in a task of its own.
//!
//! ```text
//! ssh.rs             accept loop, signals to stop    accept/        from the first byte to the end
//! ssh_session.rs     who it is, which requests       auth/          key files, certificates, host key
//! channel.rs         a command | the prompt | sftp   activity.rs    what a connection is doing
//! channel_io.rs      both directions of a channel    shell/         the prompt's line editor
//! command_progress.rs  progress of a command         sftp/          packets, reading and writing
//! ```

pub(crate) mod accept;
pub(crate) mod activity;
pub mod auth;
pub(crate) mod channel;
pub(crate) mod channel_io;
pub(crate) mod command_progress;
pub(crate) mod sftp;
mod shell;
mod ssh_session;
mod start_error;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::HashAlg;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::registry::Registry;
use crate::ssh::accept::admission::Door;
use crate::ssh::accept::algorithms::Offers;
pub use crate::ssh::auth::host_key::{HostKey, host_key};
pub use crate::ssh::auth::keyring::{Keyring, keys_in};
pub use crate::ssh::sftp::exchange::exchange;
pub use crate::ssh::start_error::Error;

/// How long running transfers and commands may go on once the server stops.
pub const GRACE: Duration = Duration::from_secs(30);
/// How often the key files are looked at.
const KEYS_EVERY: Duration = Duration::from_secs(2);
/// A client that takes nothing for this long while something waits to be sent.
const STALL: Duration = Duration::from_secs(120);
/// After an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    keyring: Arc<Keyring>,
    offers: Offers,
    deadline: Duration,
    stall: Duration,
    door: Arc<Door>,
}

impl Server {
    /// A server for `registry`. A connection older than `deadline` is closed once
    /// nothing moves on it.
    pub fn new(
        registry: Arc<Registry>,
        keyring: Arc<Keyring>,
        host_key: &HostKey,
        deadline: Duration,
    ) -> Self {
        let offers = Offers::new(host_key);
        Self { registry, keyring, offers, deadline, stall: STALL, door: Arc::default() }
    }

    /// The same, but a client that takes nothing for `stall` while something waits to be sent
    /// is gone.
    #[must_use]
    pub fn stalling(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }
}

/// The fingerprint of a key, as ssh prints it.
pub fn fingerprint(key: &HostKey) -> String {
    key.key.public_key().fingerprint(HashAlg::Sha256).to_string()
}

/// Listens on `address`, `host:port`; without a host on all interfaces.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    let failed = |address: &str, cause| Error::Listen { address: address.to_owned(), cause };
    let everywhere = address.strip_prefix(':').map(|port| format!("[::]:{port}"));
    let resolved = lookup_host(everywhere.as_deref().unwrap_or(address)).await;
    let resolved = resolved.map_err(|err| failed(address, err))?;
    // A name such as localhost means its IPv4 address first, as with the Go tool.
    let Some(first) = resolved.min_by_key(SocketAddr::is_ipv6) else {
        return Err(failed(address, io::ErrorKind::AddrNotAvailable.into()));
    };
    TcpListener::bind(first).await.map_err(|err| failed(&first.to_string(), err))
}

/// Serves until `stop` is done, then lets what runs come to its end, for at most [`GRACE`].
pub async fn serve(server: Arc<Server>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut keys = interval(KEYS_EVERY);
    keys.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = keys.tick() => server.keyring.reload_changed(),
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    admit(&server, stream, address, &stopped, &mut connections);
                }
                Err(err) => pause(&err).await,
            },
        }
    }
    drop(listener);
    tracing::info!(connections = connections.len(), "stopping, waiting for what runs");
    stopping.send_replace(true);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!("stopped with work still running, which is cut off");
    }
}

fn admit(
    server: &Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    match server.door.admit(address.ip()) {
        Ok(ticket) => {
            let (server, stopped) = (Arc::clone(server), stopped.clone());
            connections.spawn(accept::connection::run(server, stream, address, ticket, stopped));
        }
        Err(reason) => {
            if let Some(count) = server.door.is_to_tell() {
                tracing::warn!(%address, count, "connection refused: {reason}");
            }
            // As sshd has it: a line before the identification, which clients show when asked
            // to. Nobody waits for somebody who does not read.
            let _ = stream.try_write(format!("{reason}\r\n").as_bytes());
        }
    }
}

/// A full table of files, or a connection that is gone before it is taken, must not end
/// the server.
async fn pause(err: &io::Error) {
    tracing::warn!("accept: {}", start_error::plain(err));
    sleep(ACCEPT_PAUSE).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended {
        tracing::error!("connection failed inside: {err}");
    }
}
