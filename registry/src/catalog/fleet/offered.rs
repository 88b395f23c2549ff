//! Reads the states that the registry offers to agents. Also records duplicate agents.

use std::collections::HashMap;

use bytes::Bytes;
use deploy_store::{ConfigurationName, Digest};
use jiff::Timestamp;

use super::events::{self, Kind};
use super::running;
use crate::catalog::configuration_rows::load;
use crate::catalog::tx::query_as;
use crate::catalog::{Catalog, Result, column};

impl Catalog {
    /// The revision, the id and the document of a configuration's current state; `None` if there is
    /// no such configuration.
    pub async fn offered(&self, name: &ConfigurationName) -> Result<Option<(u64, Digest, Bytes)>> {
        let mut transaction = self.read_tx().await?;
        let Some(current) = running::current(&mut transaction, name).await? else {
            return Ok(None);
        };
        let state = load(&mut transaction, name, current.number.cast_unsigned()).await?;
        Ok(Some((current.revision, state.id(), state.to_json().into())))
    }

    /// The number, the revision and the id of a configuration's current state; `None` if there is
    /// no such configuration.
    pub async fn current_state(
        &self,
        name: &ConfigurationName,
    ) -> Result<Option<(u64, u64, Digest)>> {
        let mut transaction = self.read_tx().await?;
        let Some(current) = running::current(&mut transaction, name).await? else {
            return Ok(None);
        };
        let number = current.number.cast_unsigned();
        Ok(Some((number, current.revision, column(&current.hash)?)))
    }

    /// For agents that only poll and whose host is held: the number of the state to offer, by key
    /// and configuration. An agent that only polls does not name its host. So there is an entry
    /// only if all hosts with this key and this configuration are held.
    pub async fn held_by_key(&self) -> Result<HashMap<(String, ConfigurationName), u64>> {
        let rows: Vec<(String, String, i64)> = query_as(
            "SELECT h.key, a.configuration, MAX(a.held_state) FROM hosts h \
             JOIN agents a ON a.host = h.host WHERE h.retired IS NULL AND h.key IN \
               (SELECT key FROM hosts WHERE held IS NOT NULL AND retired IS NULL) \
             GROUP BY h.key, a.configuration HAVING COUNT(a.held_state) = COUNT(*)",
        )
        .fetch_all(&mut self.read_tx().await?)
        .await?;
        let held = |(key, name, number): (String, String, i64)| {
            Ok(((key, column(&name)?), number.cast_unsigned()))
        };
        rows.into_iter().map(held).collect()
    }

    /// Adds the event that two agents report under the same host name.
    pub async fn add_duplicate(&self, host: &str, name: &str, address: &str) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        transaction.writes_reports();
        let message = format!("another agent reports as {host}, from {address}");
        let kind = Kind::HostDuplicate;
        events::add(&mut transaction, Timestamp::now(), kind, name, host, &message).await?;
        transaction.commit().await
    }
}
