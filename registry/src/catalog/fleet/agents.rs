//! Reads and writes the last report of each agent. An agent deploys one configuration on one host.

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Phase, Reason, Report, Step};
use jiff::Timestamp;
use sqlx::Row as _;

use super::running;
use crate::catalog::audit::Change;
use crate::catalog::tx::{Tx, from_row, query, query_as, query_scalar};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Error, Result, column, nanoseconds, timestamp};

/// The last report of an agent, and other facts that the registry has recorded about the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// The configuration.
    pub configuration: String,
    /// The number of the host in the catalogue.
    pub host: i64,
    /// The random id of the agent's directory. Empty if a script sent the report, or if the agent
    /// only polls.
    pub instance: String,
    /// The report, without the script's output.
    pub report: Report,
    /// The digest of the deploy script's output; `None` if there was no output.
    pub output: Option<String>,
    /// When the phase of the last report began.
    pub since: Timestamp,
    /// When the registry received the last report.
    pub reported: Timestamp,
    /// How many times operators have asked the agent to retry its deploy.
    pub retries: u64,
    /// The number of the agent's last deploy in the registry's own count; 0 if the agent has
    /// reported nothing. The agent's count is in `report`.
    pub tried: i64,
    /// The number of the state that the agent runs, if the registry knows this number.
    pub state: Option<i64>,
    /// The number of the state that the registry offers to the agent while the host is held; `None`
    /// if the host is not held.
    pub held_state: Option<i64>,
}

/// The digest in a column; `None` if the column is NULL or its text is not a digest.
pub(super) fn digest(text: Option<String>) -> Option<Digest> {
    text.and_then(|text| text.parse().ok())
}

/// The steps in a column; an empty list if the text is not valid JSON.
pub(super) fn steps(text: &str) -> Vec<Step> {
    serde_json::from_str(text).unwrap_or_default()
}

from_row!(AgentRow, |row| {
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
    let text = |name: &str| row.try_get::<String, _>(name);
    let reason: Option<String> = row.try_get("reason")?;
    let exit_code: Option<i64> = row.try_get("exit_code")?;
    let report = Report {
        seq: number("seq")?,
        revision: number("revision")?,
        attempt: number("attempt")?,
        phase: Phase::of(&text("phase")?).unwrap_or_default(),
        runs: digest(row.try_get("runs")?),
        wants: digest(row.try_get("wants")?),
        reason: reason.and_then(|word| Reason::of(&word)),
        message: text("message")?,
        exit_code: exit_code.and_then(|code| i32::try_from(code).ok()),
        output: String::new(),
        steps: steps(&text("steps")?),
        boot: text("boot")?,
        version: text("version")?,
        link: text("link")?,
    };
    Ok(Self {
        configuration: text("configuration")?,
        host: row.try_get("host")?,
        instance: text("instance")?,
        report,
        output: row.try_get("output")?,
        since: timestamp(row.try_get("since")?),
        reported: timestamp(row.try_get("reported")?),
        retries: number("retries")?,
        tried: row.try_get("tried")?,
        state: row.try_get("state")?,
        held_state: row.try_get("held_state")?,
    })
});

/// The agent of a configuration on a host.
pub async fn find(
    transaction: &mut Tx,
    name: &ConfigurationName,
    host: i64,
) -> Result<Option<AgentRow>> {
    let query = "SELECT * FROM agents WHERE configuration = $1 AND host = $2";
    let row = query_as(query).bind(name.as_str()).bind(host);
    Ok(row.fetch_optional(&mut *transaction).await?)
}

/// The names of the configurations that a host's agents deploy.
pub async fn names(transaction: &mut Tx, host: i64) -> Result<Vec<String>> {
    let query = "SELECT configuration FROM agents WHERE host = $1 ORDER BY configuration";
    Ok(query_scalar(query).bind(host).fetch_all(&mut *transaction).await?)
}

/// Adds a row for an agent that only polls and has reported nothing. An existing row does not
/// change.
pub async fn add_unknown(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    host: i64,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO agents (configuration, host, instance, seq, revision, attempt, tried, phase, \
         message, steps, boot, version, link, since, reported) \
         VALUES ($1, $2, '', 0, 0, 0, 0, $3, '', '[]', '', '', '', $4, $4) ON CONFLICT DO NOTHING",
    )
    .bind(name.as_str())
    .bind(host)
    .bind(Phase::Unknown.word())
    .bind(nanoseconds(now))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// Deletes the record of the state that an agent runs. Afterwards, the registry no longer keeps the
/// state on behalf of this agent.
pub async fn forget_state(transaction: &mut WriteTx, host: i64, configuration: &str) -> Result<()> {
    let name = column(configuration)?;
    let Some(current) = running::current(transaction, &name).await? else { return Ok(()) };
    let Some(agent) = find(transaction, &name, host).await? else { return Ok(()) };
    running::change(transaction, &current, agent.state, None).await?;
    query("UPDATE agents SET state = NULL WHERE configuration = $1 AND host = $2")
        .bind(configuration)
        .bind(host)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

impl Catalog {
    /// The agents of a host.
    pub async fn agents_of(&self, host: i64) -> Result<Vec<AgentRow>> {
        let query = "SELECT * FROM agents WHERE host = $1 ORDER BY configuration";
        Ok(query_as(query).bind(host).fetch_all(&mut self.read_tx().await?).await?)
    }

    /// The agent of a configuration on a host.
    pub async fn agent(&self, name: &ConfigurationName, host: i64) -> Result<Option<AgentRow>> {
        let mut transaction = self.read_tx().await?;
        find(&mut transaction, name, host).await
    }

    /// Asks agents to retry their deploys. With `host`, asks all agents of this host. Otherwise,
    /// asks all agents whose deploy failed, was rolled back or is held. With `name`, asks only
    /// agents of this configuration. Returns the host and the configuration of each agent that was
    /// asked.
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
        let mut asked: Vec<(String, String)> = query_as(sqlx::AssertSqlSafe(query))
            .bind(name.map_or("", ConfigurationName::as_str))
            .bind(host.map_or("", HostName::as_str))
            .fetch_all(&mut transaction)
            .await?;
        if asked.is_empty() {
            let text = match (host, name) {
                (Some(host), Some(name)) => {
                    format!("host \"{host}\" has not reported on \"{name}\"")
                }
                (Some(host), None) => format!("no agent of host \"{host}\" has reported"),
                (None, Some(name)) => format!("no deploy of \"{name}\" has failed"),
                (None, None) => "no deploy has failed".to_owned(),
            };
            return Err(Error::NotFound(text));
        }
        asked.sort();
        let mut hosts: Vec<&str> = asked.iter().map(|(host, _)| &**host).collect();
        hosts.dedup();
        hosts.into_iter().for_each(|host| transaction.changes_host(host));
        transaction.commit().await?;
        Ok(asked)
    }
}
