//! Defines the values that all connections of a server share.

use std::sync::Arc;
use std::time::Duration;

use super::accept::admission::AdmissionControl;
use super::accept::algorithms::Offers;
use super::auth::host_key::HostKey;
use super::auth::keyring::Keyring;
use crate::http::Web;
use crate::registry::Registry;

/// A client that accepts no data for this long, while data waits to be sent, counts as
/// disconnected.
pub(super) const STALL: Duration = Duration::from_secs(120);

/// The values that all connections share.
#[derive(Debug)]
pub struct Server {
    pub(super) registry: Arc<Registry>,
    /// The page.
    pub(super) web: Arc<Web>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) offers: Offers,
    pub(super) deadline: Duration,
    pub(super) stall: Duration,
    pub(super) admission: Arc<AdmissionControl>,
}

impl Server {
    /// A server for `registry`. If a connection is older than `deadline`, the server closes the
    /// connection as soon as no data has moved for a while.
    pub fn new(
        registry: Arc<Registry>,
        keyring: Arc<Keyring>,
        host_key: &HostKey,
        deadline: Duration,
    ) -> Self {
        let offers = Offers::new(host_key);
        let web = Web::new(Arc::clone(&registry));
        Self { registry, web, keyring, offers, deadline, stall: STALL, admission: Arc::default() }
    }

    /// The page, for the port of `-http`.
    pub fn web(&self) -> Arc<Web> {
        Arc::clone(&self.web)
    }

    /// The same server, but with the limit `stall` instead of `STALL`.
    #[must_use]
    pub fn stalling(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }
}
