//! Reads and writes the rows of rollouts. A configuration has at most one active rollout.

use deploy_rollout::{Rollout, Status};
use deploy_store::{ConfigurationName, Digest};
use jiff::Timestamp;
use sqlx::Row as _;

use crate::catalog::tx::{Tx, from_row, query, query_as, query_scalar};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Error, Result, bad_row, column, nanoseconds, timestamp};

/// The row of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRow {
    /// The number of the rollout, from 1.
    pub number: u64,
    /// The configuration.
    pub configuration: ConfigurationName,
    /// The number of the configuration's history.
    pub(in crate::catalog) history: i64,
    /// The number of the state that was current when the rollout started.
    pub base: u64,
    /// The number of the state that the rollout brings to the hosts.
    pub target: u64,
    /// The id of the target.
    pub target_id: Digest,
    /// The number of the change that started the rollout. Members repeat this number in their
    /// reports.
    pub revision: u64,
    /// The policy, the status and the number of the open wave.
    pub rollout: Rollout,
    /// A number that grows with every change of the rollout or of its members.
    pub(in crate::catalog) step: i64,
    /// The fingerprint and the comment of the key that started the rollout.
    pub who: String,
    /// When the rollout started.
    pub started: Timestamp,
    /// When the rollout ended; `None` while the rollout is active.
    pub ended: Option<Timestamp>,
}

/// Maximum number of ended rollouts that the registry keeps for each configuration.
const MOST: i64 = 100;

const COLUMNS: &str = "SELECT r.*, s.hash AS target_id FROM rollouts r \
     JOIN states s ON s.history = r.history AND s.number = r.target";

from_row!(RolloutRow, |row| {
    let text = |name: &str| row.try_get::<String, _>(name);
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
    let time = |name: &str| row.try_get::<i64, _>(name).map(timestamp);
    let maybe = |name: &str| row.try_get::<Option<i64>, _>(name).map(|it| it.map(timestamp));
    let decode = |err: String| sqlx::Error::Decode(err.into());
    let policy = serde_json::from_str(&text("policy")?).map_err(|err| decode(err.to_string()))?;
    let status = status(&text("status")?, text("why")?)
        .ok_or_else(|| decode("the status of a rollout is unknown".to_owned()))?;
    Ok(Self {
        number: number("number")?,
        configuration: text("configuration")?.parse().map_err(|err| decode(format!("{err}")))?,
        history: row.try_get("history")?,
        base: number("base")?,
        target: number("target")?,
        target_id: text("target_id")?.parse().map_err(|err| decode(format!("{err}")))?,
        revision: number("revision")?,
        rollout: Rollout {
            policy,
            status,
            status_since: time("status_since")?,
            wave: u32::try_from(number("wave")?).unwrap_or(u32::MAX),
            opened: maybe("opened")?,
            soaking_since: maybe("soaking")?,
            soak_skipped: row.try_get("soak_skipped")?,
            waiting_since: maybe("waiting")?,
            budget: number("budget")?,
        },
        step: row.try_get("step")?,
        who: text("who")?,
        started: time("started")?,
        ended: maybe("ended")?,
    })
});

fn status(word: &str, why: String) -> Option<Status> {
    Some(match word {
        "running" => Status::Running,
        "paused" => Status::Paused { why },
        "halted" => Status::Halted { why },
        "aborted" => Status::Aborted,
        "superseded" => Status::Superseded,
        "succeeded" => Status::Succeeded,
        _ => return None,
    })
}

/// The active rollout of a configuration, if there is one.
pub async fn active(transaction: &mut Tx, name: &ConfigurationName) -> Result<Option<RolloutRow>> {
    let query = format!("{COLUMNS} WHERE r.configuration = $1 AND r.ended IS NULL");
    let row = query_as(sqlx::AssertSqlSafe(query)).bind(name.as_str());
    Ok(row.fetch_optional(&mut *transaction).await?)
}

/// The active rollouts; with `name`, only the rollout of this configuration.
pub async fn all_active(
    transaction: &mut Tx,
    name: Option<&ConfigurationName>,
) -> Result<Vec<RolloutRow>> {
    let query = format!("{COLUMNS} WHERE r.ended IS NULL AND ($1 = '' OR r.configuration = $1)");
    let rows = query_as(sqlx::AssertSqlSafe(query)).bind(name.map_or("", |name| name.as_str()));
    Ok(rows.fetch_all(&mut *transaction).await?)
}

/// The rollout `number` of a configuration; without `number`, the configuration's last rollout.
pub async fn find(
    transaction: &mut Tx,
    name: &ConfigurationName,
    number: Option<u64>,
) -> Result<Option<RolloutRow>> {
    let query = format!(
        "{COLUMNS} WHERE r.configuration = $1 AND ($2 = 0 OR r.number = $2) \
         ORDER BY r.number DESC LIMIT 1"
    );
    let number = i64::try_from(number.unwrap_or(0)).unwrap_or(i64::MAX);
    let row = query_as(sqlx::AssertSqlSafe(query)).bind(name.as_str()).bind(number);
    Ok(row.fetch_optional(&mut *transaction).await?)
}

/// Deletes the oldest ended rollouts of a configuration, so that the newest [`MOST`] ended rollouts
/// remain.
pub async fn prune(transaction: &mut WriteTx, name: &ConfigurationName) -> Result<()> {
    let oldest: Vec<i64> = query_scalar(
        "SELECT number FROM rollouts WHERE configuration = $1 AND ended IS NOT NULL \
         ORDER BY number DESC LIMIT 9223372036854775807 OFFSET $2",
    )
    .bind(name.as_str())
    .bind(MOST)
    .fetch_all(&mut *transaction)
    .await?;
    for number in oldest {
        for statement in [
            "DELETE FROM rollout_hosts WHERE rollout = $1",
            "DELETE FROM rollout_waves WHERE rollout = $1",
            "DELETE FROM rollouts WHERE number = $1",
        ] {
            query(statement).bind(number).execute(&mut *transaction).await?;
        }
    }
    Ok(())
}

/// Writes the columns of a rollout that may change. Fails with [`Error::Conflict`] if the rollout
/// has ended, or has changed since `row` was read.
pub async fn write(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    rollout: &Rollout,
    now: Timestamp,
) -> Result<()> {
    let policy = serde_json::to_string(&rollout.policy).map_err(|err| bad_row(&err))?;
    let ended = rollout.status.is_final().then(|| nanoseconds(now));
    let written = query(
        "UPDATE rollouts SET policy = $3, status = $4, why = $5, status_since = $6, wave = $7, \
         opened = $8, soaking = $9, soak_skipped = $10, waiting = $11, budget = $12, ended = $13, \
         step = step + 1 WHERE number = $1 AND step = $2 AND ended IS NULL",
    )
    .bind(row.number.cast_signed())
    .bind(row.step)
    .bind(policy)
    .bind(rollout.status.word())
    .bind(rollout.status.why().unwrap_or_default())
    .bind(nanoseconds(rollout.status_since))
    .bind(i64::from(rollout.wave))
    .bind(rollout.opened.map(nanoseconds))
    .bind(rollout.soaking_since.map(nanoseconds))
    .bind(rollout.soak_skipped)
    .bind(rollout.waiting_since.map(nanoseconds))
    .bind(rollout.budget.cast_signed())
    .bind(ended)
    .execute(&mut *transaction)
    .await?;
    if written == 0 {
        let text = format!("rollout {} has just changed; see rollout status", row.number);
        return Err(Error::Conflict(text));
    }
    Ok(())
}

impl Catalog {
    /// The names of the configurations with an active rollout.
    pub async fn rolling(&self) -> Result<Vec<ConfigurationName>> {
        let names: Vec<String> =
            query_scalar("SELECT configuration FROM rollouts WHERE ended IS NULL")
                .fetch_all(&mut self.read_tx().await?)
                .await?;
        names.iter().map(|name| column(name)).collect()
    }

    /// The last rollout of a configuration. Rollouts of an earlier, deleted configuration with the
    /// same name do not count.
    pub async fn last_rollout(&self, name: &ConfigurationName) -> Result<Option<RolloutRow>> {
        let query = format!(
            "{COLUMNS} JOIN configurations c ON c.history = r.history \
             WHERE r.configuration = $1 ORDER BY r.number DESC LIMIT 1"
        );
        let row = query_as(sqlx::AssertSqlSafe(query)).bind(name.as_str());
        Ok(row.fetch_optional(&mut self.read_tx().await?).await?)
    }

    /// The active rollouts, newest first. With `name`, only the rollout of this configuration.
    pub async fn active_rollouts(
        &self,
        name: Option<&ConfigurationName>,
    ) -> Result<Vec<RolloutRow>> {
        let mut rows = all_active(&mut self.read_tx().await?, name).await?;
        rows.sort_by_key(|row| std::cmp::Reverse(row.number));
        Ok(rows)
    }

    /// The newest `limit` rollouts, newest first. With `name`, only rollouts of this configuration.
    pub async fn rollouts(
        &self,
        name: Option<&ConfigurationName>,
        limit: u64,
    ) -> Result<Vec<RolloutRow>> {
        let query = format!(
            "{COLUMNS} WHERE $1 = '' OR r.configuration = $1 ORDER BY r.number DESC LIMIT $2"
        );
        let rows = query_as(sqlx::AssertSqlSafe(query))
            .bind(name.map_or("", |name| name.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        Ok(rows.fetch_all(&mut self.scan_tx().await?).await?)
    }
}
