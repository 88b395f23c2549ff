//! The last deploys of each agent.

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{Phase, Reason, Report, Step};
use jiff::Timestamp;
use sqlx::{FromRow, Sqlite, Transaction};

use super::agents::{digest, steps};
use crate::catalog::{Catalog, Result, nanoseconds, timestamp};

/// Deploys of an agent that are kept.
pub const MOST: i64 = 20;

/// One deploy of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its number among the agent's deploys, from 1.
    pub number: u64,
    /// How far it came.
    pub phase: Phase,
    /// The configuration that was to be deployed.
    pub wants: Option<Digest>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What happened, for people.
    pub message: String,
    /// The exit code of the script or of the health check.
    pub exit_code: Option<i32>,
    /// The digest of the script's output.
    pub output: Option<String>,
    /// Its finished steps.
    pub steps: Vec<Step>,
    /// When its first report came.
    pub began: Timestamp,
    /// When its last report came.
    pub reported: Timestamp,
}

#[derive(Debug, FromRow)]
struct Row {
    number: i64,
    phase: String,
    wants: Option<String>,
    reason: Option<String>,
    message: String,
    exit_code: Option<i64>,
    output: Option<String>,
    steps: String,
    began: i64,
    reported: i64,
}

/// Records what `report` says about the attempt `number` of an agent.
pub async fn put(
    transaction: &mut Transaction<'_, Sqlite>,
    (name, host, number): (&ConfigurationName, i64, i64),
    report: &Report,
    output: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
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
    .execute(&mut **transaction)
    .await?;
    sqlx::query("DELETE FROM attempts WHERE configuration = $1 AND host = $2 AND number <= $3")
        .bind(name.as_str())
        .bind(host)
        .bind(number - MOST)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

impl Catalog {
    /// The last deploys of an agent, newest first.
    pub async fn attempts(&self, name: &ConfigurationName, host: i64) -> Result<Vec<Attempt>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT number, phase, wants, reason, message, exit_code, output, steps, began, \
             reported FROM attempts WHERE configuration = $1 AND host = $2 ORDER BY number DESC",
        )
        .bind(name.as_str())
        .bind(host)
        .fetch_all(&self.readers)
        .await?;
        let attempt = |row: Row| Attempt {
            number: row.number.cast_unsigned(),
            phase: Phase::of(&row.phase).unwrap_or_default(),
            wants: digest(row.wants),
            reason: row.reason.and_then(|word| Reason::of(&word)),
            message: row.message,
            exit_code: row.exit_code.and_then(|code| i32::try_from(code).ok()),
            output: row.output,
            steps: steps(&row.steps),
            began: timestamp(row.began),
            reported: timestamp(row.reported),
        };
        Ok(rows.into_iter().map(attempt).collect())
    }
}
