//! The last report of each agent. An agent is one configuration on one host.

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Phase, Reason, Report, Step};
use jiff::Timestamp;
use sqlx::{FromRow, Sqlite, Transaction};

use super::running;
use crate::catalog::audit::Change;
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Error, Result, column, timestamp};

/// The last report of an agent, and what the registry knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// The configuration.
    pub configuration: String,
    /// Number of the host.
    pub host: i64,
    /// The random id of the agent's directory; empty if a script reported.
    pub instance: String,
    /// The report, without the script's output.
    pub report: Report,
    /// The digest of the script's output.
    pub output: Option<String>,
    /// When the phase began.
    pub since: Timestamp,
    /// When the last report came.
    pub reported: Timestamp,
    /// How often operators have asked the agent to try again.
    pub retries: u64,
    /// The number of the last attempt.
    pub tried: i64,
    /// The number of the state that the agent runs, if it is known.
    pub state: Option<i64>,
    /// The number of the state that the agent is shown while its host is held.
    pub held_state: Option<i64>,
}

/// A row of the table.
#[derive(Debug, FromRow)]
struct Row {
    configuration: String,
    host: i64,
    instance: String,
    seq: i64,
    revision: i64,
    attempt: i64,
    tried: i64,
    phase: String,
    runs: Option<String>,
    wants: Option<String>,
    reason: Option<String>,
    message: String,
    exit_code: Option<i64>,
    output: Option<String>,
    steps: String,
    boot: String,
    version: String,
    link: String,
    since: i64,
    reported: i64,
    retries: i64,
    state: Option<i64>,
    held_state: Option<i64>,
}

/// A digest in a column that may be empty or hold what no digest is.
pub(super) fn digest(text: Option<String>) -> Option<Digest> {
    text.and_then(|text| text.parse().ok())
}

/// The steps in a column.
pub(super) fn steps(text: &str) -> Vec<Step> {
    serde_json::from_str(text).unwrap_or_default()
}

impl From<Row> for AgentRow {
    fn from(row: Row) -> Self {
        let report = Report {
            seq: row.seq.cast_unsigned(),
            revision: row.revision.cast_unsigned(),
            attempt: row.attempt.cast_unsigned(),
            phase: Phase::of(&row.phase).unwrap_or_default(),
            runs: digest(row.runs),
            wants: digest(row.wants),
            reason: row.reason.and_then(|word| Reason::of(&word)),
            message: row.message,
            exit_code: row.exit_code.and_then(|code| i32::try_from(code).ok()),
            output: String::new(),
            steps: steps(&row.steps),
            boot: row.boot,
            version: row.version,
            link: row.link,
        };
        Self {
            configuration: row.configuration,
            host: row.host,
            instance: row.instance,
            report,
            output: row.output,
            since: timestamp(row.since),
            reported: timestamp(row.reported),
            retries: row.retries.cast_unsigned(),
            tried: row.tried,
            state: row.state,
            held_state: row.held_state,
        }
    }
}

/// The agent of a configuration on a host.
pub async fn find(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    host: i64,
) -> Result<Option<AgentRow>> {
    let query = "SELECT * FROM agents WHERE configuration = $1 AND host = $2";
    let row: Option<Row> = sqlx::query_as(query)
        .bind(name.as_str())
        .bind(host)
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(row.map(AgentRow::from))
}

/// The configurations of a host's agents.
pub async fn names(transaction: &mut Transaction<'_, Sqlite>, host: i64) -> Result<Vec<String>> {
    let query = "SELECT configuration FROM agents WHERE host = $1 ORDER BY configuration";
    Ok(sqlx::query_scalar(query).bind(host).fetch_all(&mut **transaction).await?)
}

/// Forgets which state an agent runs, so that the state need not be kept for it.
pub async fn forget_state(transaction: &mut WriteTx, host: i64, configuration: &str) -> Result<()> {
    let name = column(configuration)?;
    let Some(current) = running::current(transaction, &name).await? else { return Ok(()) };
    let Some(agent) = find(transaction, &name, host).await? else { return Ok(()) };
    running::change(transaction, &current, agent.state, None).await?;
    sqlx::query("UPDATE agents SET state = NULL WHERE configuration = $1 AND host = $2")
        .bind(configuration)
        .bind(host)
        .execute(&mut ***transaction)
        .await?;
    Ok(())
}

impl Catalog {
    /// The agents of a configuration on hosts that are not retired; without `name`, all agents.
    pub async fn agents(&self, name: Option<&ConfigurationName>) -> Result<Vec<AgentRow>> {
        let rows: Vec<Row> = match name {
            Some(name) => {
                let query = "SELECT * FROM agents WHERE configuration = $1";
                sqlx::query_as(query).bind(name.as_str()).fetch_all(&self.scanners).await?
            }
            None => sqlx::query_as("SELECT * FROM agents").fetch_all(&self.scanners).await?,
        };
        Ok(rows.into_iter().map(AgentRow::from).collect())
    }

    /// The agents of a host.
    pub async fn agents_of(&self, host: i64) -> Result<Vec<AgentRow>> {
        let query = "SELECT * FROM agents WHERE host = $1 ORDER BY configuration";
        let rows: Vec<Row> = sqlx::query_as(query).bind(host).fetch_all(&self.readers).await?;
        Ok(rows.into_iter().map(AgentRow::from).collect())
    }

    /// The agent of a configuration on a host.
    pub async fn agent(&self, name: &ConfigurationName, host: i64) -> Result<Option<AgentRow>> {
        let mut transaction = self.read_tx().await?;
        find(&mut transaction, name, host).await
    }

    /// Asks agents to try again: those of `host`, or all whose deploy failed. Returns host and
    /// configuration of each.
    pub async fn retry(
        &self,
        name: Option<&ConfigurationName>,
        host: Option<&HostName>,
        change: &Change,
    ) -> Result<Vec<(String, String)>> {
        let mut transaction = self.change_tx(change).await?;
        let failed = "'failed', 'rolled_back', 'held'";
        let query = format!(
            "UPDATE agents SET retries = retries + 1 \
             WHERE ($1 = '' OR configuration = $1) \
             AND (host = (SELECT h.host FROM hosts h WHERE h.name = $2 AND h.retired IS NULL) \
                  OR ($2 = '' AND phase IN ({failed}))) \
             RETURNING (SELECT h.name FROM hosts h WHERE h.host = agents.host), configuration"
        );
        let mut asked: Vec<(String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(name.map_or("", ConfigurationName::as_str))
            .bind(host.map_or("", HostName::as_str))
            .fetch_all(&mut **transaction)
            .await?;
        if asked.is_empty() {
            let text = match host {
                Some(host) => format!("no agent of host \"{host}\" has reported"),
                None => "no deploy has failed".to_owned(),
            };
            return Err(Error::NotFound(text));
        }
        asked.sort();
        transaction.commit().await?;
        Ok(asked)
    }
}
