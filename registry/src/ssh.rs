//! Runs the ssh server of the registry, which accepts connections and serves each connection in a
//! separate task.
//!
//! ```text
//! server        values that all connections share     accept/    connections, from start to end
//! ssh_session   logs in clients, grants requests      auth/      key files, certificates, host key
//! channel       serves one granted request            activity   whether a connection is busy
//! context       values for the task of a channel      shell/     the prompt and its line editor
//! login_proof   a login that is checked again later
//! channel_io    both directions of a channel          sftp/      packets, reading, writing
//! command_progress  progress on the client's stderr
//! agent_commands  `watch` and `report`       follow    `events -follow`
//! web_login     the verb `web`              web_stream  a connection to the page
//! ```

pub(crate) mod accept;
pub(crate) mod activity;
mod agent_commands;
pub mod auth;
pub(crate) mod channel;
pub(crate) mod channel_io;
pub(crate) mod command_progress;
pub(crate) mod context;
mod follow;
pub(crate) mod login_proof;
pub(crate) mod server;
pub(crate) mod sftp;
mod shell;
pub(crate) mod ssh_session;
mod start_error;
mod web_login;
mod web_stream;

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

use self::accept::connection;
pub use self::server::Server;
pub use crate::ssh::auth::host_key::{HostKey, host_key};
pub use crate::ssh::auth::keyring::{Keyring, keys_in};
pub use crate::ssh::auth::shared_host_key::{record_host_key, shared_host_key};
pub use crate::ssh::sftp::exchange::exchange;
pub use crate::ssh::start_error::Error;

/// How long active transfers and commands may continue after the stop signal.
pub const GRACE: Duration = Duration::from_secs(30);
/// How often the server checks the key files for changes.
const KEYS_EVERY: Duration = Duration::from_secs(2);
/// The pause after `accept` has failed, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The fingerprint of a host key, in the form that ssh prints.
pub fn fingerprint(key: &HostKey) -> String {
    key.key.public_key().fingerprint(HashAlg::Sha256).to_string()
}

/// Listens on `address`, which has the form `host:port`. Without a host, the server listens on all
/// interfaces.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    let failed = |address: &str, cause| Error::Listen { address: address.to_owned(), cause };
    let everywhere = address.strip_prefix(':').map(|port| format!("[::]:{port}"));
    let resolved = lookup_host(everywhere.as_deref().unwrap_or(address)).await;
    let resolved = resolved.map_err(|err| failed(address, err))?;
    // If a name such as localhost has several addresses, the server prefers an IPv4 address, as the
    // Go tool does.
    let Some(first) = resolved.min_by_key(SocketAddr::is_ipv6) else {
        return Err(failed(address, io::ErrorKind::AddrNotAvailable.into()));
    };
    TcpListener::bind(first).await.map_err(|err| failed(&first.to_string(), err))
}

/// Serves connections until the future `stop` completes. Then the server waits for active work, for
/// at most [`GRACE`].
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
    tracing::info!(connections = connections.len(), "stopping, waiting for active work");
    stopping.send_replace(true);
    server.registry.fleet.stop();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!("stopped, interrupting work that is still active");
    }
}

fn admit(
    server: &Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    match server.admission.admit(address.ip()) {
        Ok(guard) => {
            let (server, stopped) = (Arc::clone(server), stopped.clone());
            connections.spawn(connection::run(server, stream, address, guard, stopped));
        }
        Err(reason) => {
            server.registry.fleet.metrics.refused.with_label_values(&["admission"]).inc();
            if let Some(count) = server.admission.refusals_to_log() {
                tracing::warn!(%address, count, "connection refused: {reason}");
            }
            // Like sshd, the server sends a line before its identification. Clients show this line
            // in verbose mode. The server does not wait until the client reads the line.
            let _ = stream.try_write(format!("{reason}\r\n").as_bytes());
        }
    }
}

/// Logs a failure of `accept`, and pauses. Such a failure must not end the server. Its cause may be
/// a full file table, or a connection that ended before the server accepted it.
async fn pause(err: &io::Error) {
    tracing::warn!("accept: {}", start_error::plain(err));
    sleep(ACCEPT_PAUSE).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended {
        tracing::error!("internal error in a connection: {err}");
    }
}
