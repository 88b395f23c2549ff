//! What the catalogue says about a fleet at one moment. The verbs that count hosts read everything
//! in one transaction: with two, a host that joins in between would be overlooked.

use std::collections::HashMap;

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::HostName;
use sqlx::{Sqlite, Transaction};

use super::agents::AgentRow;
use super::hosts::{self, HostRow};
use crate::catalog::rollouts::{self, ActiveRollout};
use crate::catalog::{Catalog, Result, column};

/// The current state of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentState {
    /// The number of the state.
    pub number: u64,
    /// The number of the change that made the state current.
    pub revision: u64,
    /// The id of the state.
    pub id: Digest,
}

/// The fleet at one moment.
#[derive(Debug, Clone, Default)]
pub struct FleetSnapshot {
    /// The current state of each configuration, by name.
    pub currents: HashMap<String, CurrentState>,
    /// The hosts that are not retired, by number.
    pub hosts: HashMap<i64, HostRow>,
    /// The agents on these hosts.
    pub agents: Vec<AgentRow>,
    /// The active rollouts, by the name of the configuration.
    pub rollouts: HashMap<String, ActiveRollout>,
}

/// The part of the fleet to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// Only agents of this configuration.
    pub name: Option<&'a ConfigurationName>,
    /// Only agents of this host.
    pub host: Option<&'a HostName>,
}

impl Catalog {
    /// The fleet at this moment. If there is no configuration with the name in `scope`, there is no
    /// current state.
    pub async fn fleet_snapshot(&self, scope: Scope<'_>) -> Result<FleetSnapshot> {
        read(&mut self.scan_tx().await?, scope).await
    }
}

/// Reads the fleet.
pub async fn read(
    transaction: &mut Transaction<'_, Sqlite>,
    scope: Scope<'_>,
) -> Result<FleetSnapshot> {
    let name = scope.name.map_or("", |name| name.as_str());
    let currents = currents(transaction, name).await?;
    let found = match scope.host {
        Some(host) => hosts::find(transaction, host.as_str()).await?.into_iter().collect(),
        None => hosts::after(transaction, None, u64::MAX, false).await?,
    };
    let number = scope.host.map(|_| found.first().map_or(-1, |host| host.number));
    let hosts: HashMap<i64, HostRow> = found.into_iter().map(|host| (host.number, host)).collect();
    let mut agents = agents(transaction, name, number).await?;
    agents.retain(|agent| hosts.contains_key(&agent.host));
    let rollouts = rollouts::active(transaction, scope.name).await?;
    Ok(FleetSnapshot { currents, hosts, agents, rollouts })
}

/// The agents of one host or of all hosts; all of them if `name` is empty.
async fn agents(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &str,
    host: Option<i64>,
) -> Result<Vec<AgentRow>> {
    // Each condition has an index of its own.
    let query = match (host, name.is_empty()) {
        (Some(_), _) => "SELECT * FROM agents WHERE host = $2 AND ($1 = '' OR configuration = $1)",
        (None, false) => "SELECT * FROM agents WHERE configuration = $1 AND $2 = -1",
        (None, true) => "SELECT * FROM agents WHERE $1 = '' AND $2 = -1",
    };
    let agents = sqlx::query_as(query).bind(name).bind(host.unwrap_or(-1));
    Ok(agents.fetch_all(&mut **transaction).await?)
}

async fn currents(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &str,
) -> Result<HashMap<String, CurrentState>> {
    let rows: Vec<(String, i64, i64, String)> = sqlx::query_as(
        "SELECT c.name, c.current, c.revision, s.hash FROM configurations c \
         JOIN states s ON s.history = c.history AND s.number = c.current \
         WHERE $1 = '' OR c.name = $1",
    )
    .bind(name)
    .fetch_all(&mut **transaction)
    .await?;
    let current = |(name, number, revision, hash): (String, i64, i64, String)| {
        let (number, revision) = (number.cast_unsigned(), revision.cast_unsigned());
        Ok((name, CurrentState { number, revision, id: column(&hash)? }))
    };
    rows.into_iter().map(current).collect()
}
