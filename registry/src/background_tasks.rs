//! Starts the tasks that run beside the server, as the flags ask for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deploy_cli::service;
use deploy_registry::catalog::{Catalog, Described};
use deploy_registry::error::Error;
use deploy_registry::registry::Registry;
use deploy_registry::ssh::Keyring;
use deploy_registry::{event_program, janitor};
use tokio::signal::unix::Signal;

/// Reads all blobs again and again, at most `rate` bytes a second; 0 disables this.
pub async fn verify(registry: Arc<Registry>, rate: u64) {
    if rate > 0 {
        janitor::verify(registry, rate).await;
    }
}

/// Runs the program of `-on-event`, if there is one.
pub async fn tell_events(registry: Arc<Registry>, program: Option<PathBuf>) {
    if let Some(program) = program {
        event_program::run(registry, program).await;
    }
}

/// Reads the key files after each signal.
pub async fn reload_keys(mut hangup: Signal, keyring: Arc<Keyring>) {
    while hangup.recv().await.is_some() {
        service::reloading();
        keyring.reload();
        service::reloaded();
    }
}

/// Maximum time that the catalogue may take to answer. If a catalogue in a file takes longer, the
/// registry sends no report to the service manager.
const ANSWER: Duration = Duration::from_secs(30);

/// Regularly reports to the service manager that the catalogue answers, if the service manager asks
/// for such reports.
pub async fn keep_watch(catalog: Catalog) {
    let Some(every) = service::watchdog() else { return };
    loop {
        // Any answer is enough, even an error. Such errors are reported where they occur, and a
        // restart would not fix them. A restart would not bring back a lost server either.
        let answer = tokio::time::timeout(ANSWER, catalog.is_new()).await;
        let is_lost = matches!(answer, Err(_) | Ok(Err(Error::NoAnswer(_))));
        if is_lost && !catalog.is_on_server() {
            continue;
        }
        service::alive();
        tokio::time::sleep(every).await;
    }
}

/// With a shared catalogue, tells the other registries the address, the version and the keys of this
/// registry, at the start and whenever a key file has changed.
pub async fn describe(
    catalog: Catalog,
    keyring: Arc<Keyring>,
    address: SocketAddr,
    host_key: String,
) {
    if !catalog.is_shared() {
        return;
    }
    let address = reachable(address);
    let mut changes = keyring.changes();
    loop {
        changes.borrow_and_update();
        let [operators, services] = keyring.digests();
        let version = deploy_cli::version!().to_owned();
        let described = Described {
            address: address.clone(),
            version,
            host_key: host_key.clone(),
            operators,
            services,
        };
        if let Err(err) = catalog.describe(described).await {
            // The next heartbeat writes it.
            tracing::debug!("cannot describe this registry yet: {err}");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The address with the name of this host, if the registry listens on all interfaces.
fn reachable(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let host = rustix::system::uname();
    format!("{}:{}", host.nodename().to_string_lossy(), address.port())
}
