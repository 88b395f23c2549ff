//! Reads and writes the last deploys of each agent.

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{Phase, Reason, Report, Step};
use jiff::Timestamp;
use sqlx::Row as _;

use super::agents::{digest, steps};
use crate::catalog::tx::{Tx, from_row, query, query_as};
use crate::catalog::{Catalog, Result, nanoseconds, timestamp};

/// Maximum number of deploys that the registry keeps for each agent.
pub const MOST: i64 = 20;

/// One deploy of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the deploy among the agent's deploys, from 1.
    pub number: u64,
    /// The last phase that the deploy reached.
    pub phase: Phase,
    /// The id of the state to deploy, if the agent reported it.
    pub wants: Option<Digest>,
    /// Why the deploy failed; `None` if it did not fail.
    pub reason: Option<Reason>,
    /// A description of the result, for people.
    pub message: String,
    /// The exit code of the script or of the health check, if the agent reported one.
    pub exit_code: Option<i32>,
    /// The digest of the deploy script's output; `None` if there was no output.
    pub output: Option<String>,
    /// The finished steps of the deploy.
    pub steps: Vec<Step>,
    /// When the registry received the first report of the deploy.
    pub began: Timestamp,
    /// When the registry received the last report of the deploy.
    pub reported: Timestamp,
}

from_row!(Attempt, |row| {
    let text = |name: &str| row.try_get::<String, _>(name);
    let reason: Option<String> = row.try_get("reason")?;
    let exit_code: Option<i64> = row.try_get("exit_code")?;
    Ok(Self {
        number: row.try_get::<i64, _>("number")?.cast_unsigned(),
        phase: Phase::of(&text("phase")?).unwrap_or_default(),
        wants: digest(row.try_get("wants")?),
        reason: reason.and_then(|word| Reason::of(&word)),
        message: text("message")?,
        exit_code: exit_code.and_then(|code| i32::try_from(code).ok()),
        output: row.try_get("output")?,
        steps: steps(&text("steps")?),
        began: timestamp(row.try_get("began")?),
        reported: timestamp(row.try_get("reported")?),
    })
});

/// Writes `report` to the row of the agent's deploy number `number`. Then deletes the rows of the
/// agent's oldest deploys, so that at most [`MOST`] rows remain.
pub async fn put(
    transaction: &mut Tx,
    (name, host, number): (&ConfigurationName, i64, i64),
    report: &Report,
    output: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO attempts (configuration, host, number, phase, wants, reason, message, \
         exit_code, output, steps, began, reported) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11) \
         ON CONFLICT (configuration, host, number) DO UPDATE SET phase = $4, wants = $5, \
         reason = $6, message = $7, exit_code = $8, output = $9, steps = $10, reported = $11",
    )
    .bind(name.as_str())
    .bind(host)
    .bind(number)
    .bind(report.phase.word())
    .bind(report.wants.map(|id| id.to_string()))
    .bind(report.reason.map(Reason::word))
    .bind(&report.message)
    .bind(report.exit_code)
    .bind(output)
    .bind(serde_json::to_string(&report.steps).unwrap_or_default())
    .bind(nanoseconds(now))
    .execute(&mut *transaction)
    .await?;
    query("DELETE FROM attempts WHERE configuration = $1 AND host = $2 AND number <= $3")
        .bind(name.as_str())
        .bind(host)
        .bind(number - MOST)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

impl Catalog {
    /// The last deploys of an agent, newest first.
    pub async fn attempts(&self, name: &ConfigurationName, host: i64) -> Result<Vec<Attempt>> {
        Ok(query_as(
            "SELECT number, phase, wants, reason, message, exit_code, output, steps, began, \
             reported FROM attempts WHERE configuration = $1 AND host = $2 ORDER BY number DESC",
        )
        .bind(name.as_str())
        .bind(host)
        .fetch_all(&mut self.read_tx().await?)
        .await?)
    }
}
