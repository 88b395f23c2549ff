//! Connects to the registry, and keeps the connection between polls.

use std::sync::{Arc, Mutex, PoisonError};

use deploy_store::{Configuration, ConfigurationName, MAX_JSON};
use deploy_wire::client::{Client, Connect};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// A session with the registry. The session connects on the first use, and on the first use after
/// the connection is lost. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Session {
    connect: Option<Connect>,
    /// The configuration to track, if any.
    name: Option<ConfigurationName>,
    slot: Arc<Slot>,
}

/// The connection that all clones of a session share.
#[derive(Debug, Default)]
struct Slot {
    client: Mutex<Option<Arc<Client>>>,
    /// The clone that connects holds this lock, so that the other clones wait for the connection.
    connecting: tokio::sync::Mutex<()>,
    /// Number of times that a connection was made or discarded.
    changes: watch::Sender<u64>,
}

impl Session {
    /// A session that connects to the registry as `connect` specifies.
    pub fn new(connect: Connect) -> Self {
        Self { connect: Some(connect), name: None, slot: Arc::default() }
    }

    /// A session without a registry. The agent can use only its cache.
    pub fn none() -> Self {
        Self { connect: None, name: None, slot: Arc::default() }
    }

    /// Makes the session track the configuration `name`.
    #[must_use]
    pub fn tracking(self, name: ConfigurationName) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Makes a session for the same registry with a connection of its own.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { connect: self.connect.clone(), name: self.name.clone(), slot: Arc::default() }
    }

    /// Returns the connection. Connects first if there is none.
    pub async fn client(&mut self) -> Result<Arc<Client>> {
        if let Some(client) = self.slot.usable() {
            return Ok(client);
        }
        let _connecting = self.slot.connecting.lock().await;
        if let Some(client) = self.slot.usable() {
            return Ok(client);
        }
        let connect = self.connect.as_ref().ok_or(Error::NoRegistry)?;
        tracing::debug!(event = "connecting", addr = %connect.addr, "connecting to {}", connect.addr);
        let client = Arc::new(Client::connect(connect).await?);
        self.slot.put(Some(Arc::clone(&client)));
        Ok(client)
    }

    /// Discards the connection for all clones. The next use makes a new connection.
    pub fn forget(&mut self) {
        if self.slot.is_full() {
            self.slot.put(None);
        }
    }

    /// Discards the connection like [`Session::forget`], but only if the connection is still
    /// `client`.
    pub fn forget_if(&mut self, client: &Arc<Client>) {
        if self.slot.usable().is_some_and(|kept| Arc::ptr_eq(&kept, client)) {
            self.forget();
        }
    }

    /// A receiver that signals every new connection and every discarded connection.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.slot.changes.subscribe()
    }

    /// Asks the registry for the tracked configuration.
    pub async fn configuration(&mut self) -> Result<Configuration> {
        let name = self.name.clone().ok_or(Error::NoRegistry)?;
        let path = format!("configs/{}.json", name.as_str());
        let kept = self.slot.is_full();
        let json = match self.read(&path).await {
            // The kept connection may have ended since the last poll, so the agent tries once more
            // with a new connection.
            Err(_) if kept => {
                self.forget();
                self.read(&path).await?
            }
            other => other?,
        };
        let Some(json) = json else { return Err(self.unknown()) };
        let configuration = Configuration::from_json(&json)
            .map_err(|err| bad_configuration(&name, err.to_string()))?;
        self.checked(configuration)
    }

    /// The error for a registry that does not have the tracked configuration.
    pub fn unknown(&self) -> Error {
        let addr = self.connect.as_ref().map(|connect| connect.addr.clone()).unwrap_or_default();
        let name = self.name.as_ref().map(ToString::to_string).unwrap_or_default();
        Error::UnknownConfiguration { name, addr }
    }

    /// Checks that a configuration from the registry has the tracked name.
    pub fn checked(&self, configuration: Configuration) -> Result<Configuration> {
        match &self.name {
            Some(name) if configuration.name() != name => {
                let reason = format!("the registry sent \"{}\" instead", configuration.name());
                Err(bad_configuration(name, reason))
            }
            _ => Ok(configuration),
        }
    }

    async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let client = self.client().await?;
        Ok(client.read_small(path, MAX_JSON).await?)
    }
}

fn bad_configuration(name: &ConfigurationName, reason: String) -> Error {
    Error::BadConfiguration { name: name.to_string(), reason }
}

impl Slot {
    fn is_full(&self) -> bool {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn usable(&self) -> Option<Arc<Client>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.as_ref().filter(|client| client.is_alive()).map(Arc::clone)
    }

    fn put(&self, client: Option<Arc<Client>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        self.changes.send_modify(|count| *count += 1);
    }
}
