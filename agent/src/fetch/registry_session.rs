//! The connection to the registry, kept from poll to poll.

use std::sync::Arc;

use deploy_store::{Configuration, ConfigurationName, MAX_JSON};
use deploy_wire::client::{Client, Connect};

use crate::error::{Error, Result};

/// A connection that is made when it is needed and made again when it was lost.
#[derive(Debug)]
pub struct Session {
    connect: Option<Connect>,
    client: Option<Arc<Client>>,
}

impl Session {
    /// A session that connects as `connect` says, later.
    pub fn new(connect: Connect) -> Self {
        Self { connect: Some(connect), client: None }
    }

    /// A session without a registry: what is not in the cache cannot be had.
    pub fn none() -> Self {
        Self { connect: None, client: None }
    }

    /// The connection, made if there is none.
    pub async fn client(&mut self) -> Result<Arc<Client>> {
        if let Some(client) = self.client.as_ref().filter(|client| client.is_alive()) {
            return Ok(Arc::clone(client));
        }
        let connect = self.connect.as_ref().ok_or(Error::NoRegistry)?;
        tracing::debug!(event = "connecting", addr = %connect.addr, "connecting to {}", connect.addr);
        let client = Arc::new(Client::connect(connect).await?);
        Ok(Arc::clone(self.client.insert(client)))
    }

    /// Forgets the connection: the next use makes a new one.
    pub fn forget(&mut self) {
        self.client = None;
    }

    /// The current configuration of that name.
    pub async fn configuration(&mut self, name: &ConfigurationName) -> Result<Configuration> {
        let path = format!("configs/{}.json", name.as_str());
        let kept = self.client.is_some();
        let json = match self.read(&path).await {
            // A kept connection may have ended since: that is no failure yet.
            Err(_) if kept => {
                self.forget();
                self.read(&path).await?
            }
            other => other?,
        };
        let Some(json) = json else {
            let addr = self.connect.as_ref().map(|connect| connect.addr.clone());
            let (name, addr) = (name.to_string(), addr.unwrap_or_default());
            return Err(Error::UnknownConfiguration { name, addr });
        };
        checked(name, &json)
    }

    async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let client = self.client().await?;
        Ok(client.read_small(path, MAX_JSON).await?)
    }
}

/// The configuration in `json`, if it is the one that was asked for.
fn checked(name: &ConfigurationName, json: &[u8]) -> Result<Configuration> {
    let bad = |reason: String| Error::BadConfiguration { name: name.to_string(), reason };
    let configuration = Configuration::from_json(json).map_err(|err| bad(err.to_string()))?;
    if configuration.name() != name {
        return Err(bad(format!("it is configuration \"{}\"", configuration.name())));
    }
    Ok(configuration)
}
