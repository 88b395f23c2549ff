//! Reads the rows of a fleet at one moment. The verbs that count hosts read all rows in one
//! transaction. With two transactions, these verbs could miss a host that joins in between.

use std::collections::HashMap;

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Phase, Reason, Report};

use super::agents::{AgentRow, digest};
use super::hosts::{self, HostRow};
use crate::catalog::packed::packed;
use crate::catalog::rollouts::{self, ActiveRollout};
use crate::catalog::tx::{Tx, query_as};

use crate::catalog::{Catalog, Result, column, timestamp};

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
    /// The agents on these hosts. The rows have only the values that counting needs. For example,
    /// the numbers and the steps of deploys are missing.
    pub agents: Vec<AgentRow>,
    /// The active rollouts, by the name of the configuration.
    pub rollouts: HashMap<String, ActiveRollout>,
}

/// The part of the fleet to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// Only this configuration, its agents and its active rollout; `None` for all configurations.
    pub name: Option<&'a ConfigurationName>,
    /// Only this host and its agents; `None` for all hosts.
    pub host: Option<&'a HostName>,
}

impl Catalog {
    /// The fleet at this moment. If no configuration has the name in `scope`, the result has no
    /// current states.
    pub async fn fleet_snapshot(&self, scope: Scope<'_>) -> Result<FleetSnapshot> {
        read(&mut self.scan_tx().await?, scope).await
    }
}

/// Reads the part of the fleet that `scope` selects.
pub async fn read(transaction: &mut Tx, scope: Scope<'_>) -> Result<FleetSnapshot> {
    let name = scope.name.map_or("", |name| name.as_str());
    let currents = currents(transaction, name).await?;
    let hosts: HashMap<i64, HostRow> = match scope.host {
        Some(host) => {
            let found = hosts::find(transaction, host.as_str()).await?;
            found.into_iter().map(|host| (host.number, host)).collect()
        }
        None => hosts::active(transaction).await?,
    };
    let number = scope.host.map(|_| hosts.keys().next().copied().unwrap_or(-1));
    let mut agents = agents(transaction, name, number).await?;
    agents.retain(|agent| hosts.contains_key(&agent.host));
    let rollouts = rollouts::active(transaction, scope.name).await?;
    Ok(FleetSnapshot { currents, hosts, agents, rollouts })
}

/// The columns of a [`Counted`] row, in order.
const COLUMNS: &str = "configuration, host, revision, phase, runs, wants, version, since, \
     reported, state, instance, reason, message, exit_code, output";

/// The columns of an agent's row that counting needs. In a large fleet, reading all columns would
/// take longer.
type Counted = (
    String,
    i64,
    i64,
    String,
    Option<String>,
    Option<String>,
    String,
    i64,
    i64,
    Option<i64>,
    String,
    Option<String>,
    String,
    Option<i64>,
    Option<String>,
);

fn agent(row: Counted) -> AgentRow {
    let (configuration, host, revision, phase, runs, wants, version, since, reported, ..) = row;
    let (.., state, instance, reason, message, exit_code, output) = row;
    let report = Report {
        revision: revision.cast_unsigned(),
        phase: Phase::of(&phase).unwrap_or_default(),
        runs: digest(runs),
        wants: digest(wants),
        version,
        reason: reason.as_deref().and_then(Reason::of),
        message,
        exit_code: exit_code.and_then(|code| i32::try_from(code).ok()),
        ..Report::default()
    };
    AgentRow {
        configuration,
        host,
        instance,
        report,
        output,
        since: timestamp(since),
        reported: timestamp(reported),
        retries: 0,
        tried: 0,
        state,
        held_state: None,
    }
}

/// The agents of one host, or of all hosts. If `name` is not empty, only the agents of the
/// configuration `name`.
async fn agents(transaction: &mut Tx, name: &str, host: Option<i64>) -> Result<Vec<AgentRow>> {
    // The first condition uses the index on `host`, and the second condition uses the primary key.
    // The third condition selects all rows.
    let condition = match (host, name.is_empty()) {
        (Some(_), _) => "host = $2 AND ($1 = '' OR configuration = $1)",
        (None, false) => "configuration = $1 AND $2 = -1",
        (None, true) => "$1 = '' AND $2 = -1",
    };
    let rows = packed(COLUMNS, format!("FROM agents WHERE {condition}"));
    let rows = rows.bind(name).bind(host.unwrap_or(-1)).fetch_all(&mut *transaction).await?;
    Ok(rows.into_iter().map(agent).collect())
}

async fn currents(transaction: &mut Tx, name: &str) -> Result<HashMap<String, CurrentState>> {
    let rows: Vec<(String, i64, i64, String)> = query_as(
        "SELECT c.name, c.current, c.revision, s.hash FROM configurations c \
         JOIN states s ON s.history = c.history AND s.number = c.current \
         WHERE $1 = '' OR c.name = $1",
    )
    .bind(name)
    .fetch_all(&mut *transaction)
    .await?;
    let current = |(name, number, revision, hash): (String, i64, i64, String)| {
        let (number, revision) = (number.cast_unsigned(), revision.cast_unsigned());
        Ok((name, CurrentState { number, revision, id: column(&hash)? }))
    };
    rows.into_iter().map(current).collect()
}
