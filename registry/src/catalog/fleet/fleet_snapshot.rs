//! What the catalogue says about a fleet at one moment. The verbs that count hosts read everything
//! in one transaction: with two, a host that joins in between would be overlooked.

use std::collections::HashMap;

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Phase, Reason, Report};
use sqlx::Row as _;

use super::agents::AgentRow;
use super::hosts::{self, HostRow};
use crate::catalog::rollouts::{self, ActiveRollout};
use crate::catalog::tx::{Tx, from_row, query_as};
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
    /// The agents on these hosts, with what counting needs: not the steps of their deploys, nor
    /// the numbers of their attempts.
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

/// The columns of a [`CountedRow`], in order. Most agents have no results of a failure, so these
/// are read apart.
const COLUMNS: &str = "SELECT configuration, host, revision, phase, runs, wants, version, since, \
     reported, state, instance FROM agents";
/// The results of failures.
const FAILURES: &str = "SELECT configuration, host, reason, message, exit_code, output FROM agents";
const HAS_FAILED: &str =
    "(reason IS NOT NULL OR message != '' OR exit_code IS NOT NULL OR output IS NOT NULL)";

/// An agent with only those columns that counting needs. Reading all columns of a large fleet takes
/// much longer. Attempts, retries and the steps of deploys are not read.
struct CountedRow(AgentRow);

from_row!(CountedRow, |row| {
    let digest = |column: usize| -> sqlx::Result<Option<Digest>> {
        let text: Option<&str> = row.try_get(column)?;
        Ok(text.and_then(|text| text.parse().ok()))
    };
    let report = Report {
        revision: row.try_get::<i64, _>(2)?.cast_unsigned(),
        phase: Phase::of(row.try_get(3)?).unwrap_or_default(),
        runs: digest(4)?,
        wants: digest(5)?,
        version: row.try_get(6)?,
        ..Report::default()
    };
    Ok(Self(AgentRow {
        configuration: row.try_get(0)?,
        host: row.try_get(1)?,
        instance: row.try_get(10)?,
        report,
        output: None,
        since: timestamp(row.try_get(7)?),
        reported: timestamp(row.try_get(8)?),
        retries: 0,
        tried: 0,
        state: row.try_get(9)?,
        held_state: None,
    }))
});

type FailureRow = (String, i64, Option<String>, String, Option<i64>, Option<String>);

/// The agents of one host or of all hosts; all of them if `name` is empty.
async fn agents(transaction: &mut Tx, name: &str, host: Option<i64>) -> Result<Vec<AgentRow>> {
    // Each condition has an index of its own.
    let condition = match (host, name.is_empty()) {
        (Some(_), _) => "host = $2 AND ($1 = '' OR configuration = $1)",
        (None, false) => "configuration = $1 AND $2 = -1",
        (None, true) => "$1 = '' AND $2 = -1",
    };
    let query = format!("{COLUMNS} WHERE {condition}");
    let rows = query_as(sqlx::AssertSqlSafe(query)).bind(name).bind(host.unwrap_or(-1));
    let rows: Vec<CountedRow> = rows.fetch_all(&mut *transaction).await?;
    let query = format!("{FAILURES} WHERE {condition} AND {HAS_FAILED}");
    let failures = query_as(sqlx::AssertSqlSafe(query)).bind(name).bind(host.unwrap_or(-1));
    let failures: Vec<FailureRow> = failures.fetch_all(&mut *transaction).await?;
    Ok(with_failures(rows, failures))
}

fn with_failures(rows: Vec<CountedRow>, failures: Vec<FailureRow>) -> Vec<AgentRow> {
    let key = |row: FailureRow| ((row.0, row.1), (row.2, row.3, row.4, row.5));
    let mut failures: HashMap<(String, i64), _> = failures.into_iter().map(key).collect();
    let mut agents: Vec<AgentRow> = rows.into_iter().map(|CountedRow(agent)| agent).collect();
    if failures.is_empty() {
        return agents;
    }
    for agent in &mut agents {
        let key = (agent.configuration.clone(), agent.host);
        let Some((reason, message, exit_code, output)) = failures.remove(&key) else { continue };
        agent.report.reason = reason.as_deref().and_then(Reason::of);
        agent.report.message = message;
        agent.report.exit_code = exit_code.and_then(|code| i32::try_from(code).ok());
        agent.output = output;
    }
    agents
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
