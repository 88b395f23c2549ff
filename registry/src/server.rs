//! The ssh server: accepts connections, holds them to limits, and stops gracefully.

mod authorized;
mod editor;
mod keys;
mod session;
mod sftp;
mod shell;
mod stream;
mod upload;
mod view;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub use authorized::KeyFile;
pub use keys::{fingerprint, host_key};

use crate::registry::Registry;
use session::Connection;
use stream::DeadlineStream;

/// Connections that have not logged in, in all and of one address.
const MAX_STARTUPS: usize = 100;
const MAX_STARTUPS_PER_SOURCE: usize = 30;
const MAX_AUTH_ATTEMPTS: usize = 6;
/// A connection that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Running transfers get so long when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Answer to a wrong key: the same for all reasons.
const REJECTION: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// The registry.
    pub registry: Arc<Registry>,
    operators: KeyFile,
    services: KeyFile,
    startups: Mutex<HashMap<IpAddr, usize>>,
    working: Arc<(AtomicUsize, Notify)>,
}

/// Held while a command runs or a file is open: the server waits for it to stop.
#[derive(Debug)]
pub struct Busy(Arc<(AtomicUsize, Notify)>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }
}

/// Held by a connection that has not logged in.
pub struct StartupGuard {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Drop for StartupGuard {
    fn drop(&mut self) {
        let Ok(mut startups) = self.shared.startups.lock() else { return };
        if let Some(count) = startups.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                startups.remove(&self.address);
            }
        }
    }
}

impl Shared {
    /// Reads the key files.
    pub fn new(registry: Arc<Registry>, operators: &Path, services: &Path) -> Result<Self> {
        Ok(Self {
            registry,
            operators: KeyFile::open(operators)?,
            services: KeyFile::open(services)?,
            startups: Mutex::default(),
            working: Arc::default(),
        })
    }

    /// Reads the key files again, if they changed or `always`.
    pub fn reload_keys(&self, always: bool) {
        self.operators.reload(always);
        self.services.reload(always);
    }

    fn busy(&self) -> Busy {
        self.working.0.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(&self.working))
    }

    fn startup(self: &Arc<Self>, address: IpAddr) -> Option<StartupGuard> {
        let mut startups = self.startups.lock().ok()?;
        let all: usize = startups.values().sum();
        let count = startups.entry(address).or_insert(0);
        if all >= MAX_STARTUPS || *count >= MAX_STARTUPS_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(StartupGuard { shared: Arc::clone(self), address })
    }

    /// Waits until no command runs and no file is open, but not for ever.
    pub async fn settle(&self) {
        let settled = async {
            loop {
                let changed = self.working.1.notified();
                if self.working.0.load(Ordering::SeqCst) == 0 {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, settled).await.is_err() {
            tracing::warn!("transfers still run and are cut");
        }
    }
}

/// Algorithms and limits of the protocol. What the Go clients of 2020 speak is in it;
/// SHA-1 and compression are not.
pub fn config(key: russh::keys::PrivateKey) -> Config {
    let preferred = Preferred {
        kex: Cow::Borrowed(&[
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::ECDH_SHA2_NISTP256,
            kex::ECDH_SHA2_NISTP384,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        cipher: Cow::Borrowed(&[
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_CTR,
            cipher::AES_256_CTR,
        ]),
        mac: Cow::Borrowed(&[
            mac::HMAC_SHA256_ETM,
            mac::HMAC_SHA512_ETM,
            mac::HMAC_SHA256,
            mac::HMAC_SHA512,
        ]),
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::default()
    };
    let id = concat!("SSH-2.0-deploy-registry_", env!("CARGO_PKG_VERSION"));
    Config {
        server_id: SshId::Standard(Cow::Borrowed(id)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        max_auth_attempts: MAX_AUTH_ATTEMPTS,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        preferred,
        ..Config::default()
    }
}

/// Listens on `address` (`host:port`).
pub async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listen tcp {address}: is another registry running there? choose another -addr")
    })
}

/// Accepts connections until `stop` is notified. Running out of descriptors is waited
/// out: connections end and give some back.
pub async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    config: Arc<Config>,
    deadline: Duration,
    stop: &Notify,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.notified() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(startup) = shared.startup(address.ip()) else {
                    tracing::warn!(%address, "too many connections that have not logged in");
                    continue;
                };
                let (shared, config) = (Arc::clone(&shared), Arc::clone(&config));
                tokio::spawn(serve(stream, address, shared, config, deadline, startup));
            }
            Err(err) => {
                tracing::error!("accept: {err}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared>,
    config: Arc<Config>,
    deadline: Duration,
    startup: StartupGuard,
) {
    // Each write of a transfer waits for a small answer: not to be held back.
    let _ = stream.set_nodelay(true);
    let logged_in = Arc::new(AtomicBool::new(false));
    let stream = DeadlineStream::new(stream, Arc::clone(&logged_in), deadline);
    let connection = Connection::new(shared, address, Arc::clone(&logged_in), startup);
    let ended = match russh::server::run_stream(config, stream, connection).await {
        Ok(session) => session.await,
        Err(err) => Err(err),
    };
    match ended {
        Err(err) if !logged_in.load(Ordering::Relaxed) => {
            tracing::info!(%address, "no login: {err}");
        }
        Err(err) => tracing::debug!(%address, "connection ended: {err}"),
        Ok(()) => {}
    }
}
