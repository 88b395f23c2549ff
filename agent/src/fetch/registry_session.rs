//! The connection to the registry, which the agent keeps between polls.

use std::sync::Arc;

use deploy_store::{Configuration, ConfigurationName, MAX_JSON};
use deploy_wire::client::{Client, Connect};

use crate::error::{Error, Result};

/// A connection that is made on first use, and made again after a loss.
#[derive(Debug)]
pub struct Session {
    connect: Option<Connect>,
    /// The configuration to track, if any.
    name: Option<ConfigurationName>,
    client: Option<Arc<Client>>,
}

impl Session {
    /// A session that will connect as `connect` says.
    pub fn new(connect: Connect) -> Self {
        Self { connect: Some(connect), name: None, client: None }
    }

    /// A session without a registry: only the cache can be used.
    pub fn none() -> Self {
        Self { connect: None, name: None, client: None }
    }

    /// The same session, which tracks the configuration `name`.
    #[must_use]
    pub fn tracking(self, name: ConfigurationName) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The same session, without its connection: the next use makes a new one.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { connect: self.connect.clone(), name: self.name.clone(), client: None }
    }

    /// The connection; connects if there is none.
    pub async fn client(&mut self) -> Result<Arc<Client>> {
        if let Some(client) = self.client.as_ref().filter(|client| client.is_alive()) {
            return Ok(Arc::clone(client));
        }
        let connect = self.connect.as_ref().ok_or(Error::NoRegistry)?;
        tracing::debug!(event = "connecting", addr = %connect.addr, "connecting to {}", connect.addr);
        let client = Arc::new(Client::connect(connect).await?);
        Ok(Arc::clone(self.client.insert(client)))
    }

    /// Discards the connection: the next use makes a new one.
    pub fn forget(&mut self) {
        self.client = None;
    }

    /// The tracked configuration as the registry has it now.
    pub async fn configuration(&mut self) -> Result<Configuration> {
        let name = self.name.clone().ok_or(Error::NoRegistry)?;
        let path = format!("configs/{}.json", name.as_str());
        let kept = self.client.is_some();
        let json = match self.read(&path).await {
            // The kept connection may have ended meanwhile, so one failure does not count.
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
        checked(&name, &json)
    }

    async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let client = self.client().await?;
        Ok(client.read_small(path, MAX_JSON).await?)
    }
}

/// Parses the configuration in `json`, and checks that it has the requested name.
fn checked(name: &ConfigurationName, json: &[u8]) -> Result<Configuration> {
    let bad = |reason: String| Error::BadConfiguration { name: name.to_string(), reason };
    let configuration = Configuration::from_json(json).map_err(|err| bad(err.to_string()))?;
    if configuration.name() != name {
        return Err(bad(format!("it is configuration \"{}\"", configuration.name())));
    }
    Ok(configuration)
}
