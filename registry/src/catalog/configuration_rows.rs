//! Rows of configurations and their states. Every change makes a new state, numbered from 1, and
//! one state is current.

use deploy_store::{Configuration, ConfigurationName, Digest, Layer};
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::audit::Change;
use super::versions::{Row, layer};
use super::{Error, Result, bad_row, column, nanoseconds, timestamp};

/// A state of a configuration, without its layers.
#[derive(Debug, Clone)]
pub struct State {
    /// Its number.
    pub number: u64,
    /// Digest over its layers.
    pub hash: Digest,
    /// When it was made.
    pub modified: Timestamp,
    /// The key that made it: fingerprint and comment.
    pub who: String,
    /// The command that made it.
    pub command: String,
    /// Whether it is the current state.
    pub current: bool,
    /// Whether it was imported without the files of its layers.
    pub lost: bool,
    /// The state that it restored, if a rollback made it.
    pub back_to: Option<u64>,
}

/// Number, hash, time, who, command, whether it is lost, and which state it restored.
type StateRow = (i64, String, i64, String, String, bool, Option<i64>);

/// Number of the current state, if there is such a configuration.
pub(super) async fn find_current(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
) -> Result<Option<u64>> {
    let number: Option<i64> =
        sqlx::query_scalar("SELECT current FROM configurations WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut **transaction)
            .await?;
    Ok(number.map(i64::cast_unsigned))
}

/// Number of the current state, or [`Error::NotFound`].
pub(super) async fn require_current(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
) -> Result<u64> {
    let number = find_current(transaction, name).await?;
    number.ok_or_else(|| Error::NotFound(format!("configuration \"{name}\" not found")))
}

/// The state `number` with its layers.
pub(super) async fn load(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    number: u64,
) -> Result<Configuration> {
    let modified: i64 =
        sqlx::query_scalar("SELECT modified FROM states WHERE configuration = $1 AND number = $2")
            .bind(name.as_str())
            .bind(number.cast_signed())
            .fetch_one(&mut **transaction)
            .await?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT component, version, digest, created FROM state_layers \
         WHERE configuration = $1 AND number = $2 ORDER BY position",
    )
    .bind(name.as_str())
    .bind(number.cast_signed())
    .fetch_all(&mut **transaction)
    .await?;
    let layers = rows.into_iter().map(layer).collect::<Result<_>>()?;
    Configuration::new(name.clone(), layers, timestamp(modified)).map_err(|err| bad_row(&err))
}

/// The states without their layers, newest first, `limit` at most.
pub(super) async fn states(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    limit: u64,
) -> Result<Vec<State>> {
    let current = require_current(transaction, name).await?;
    let rows: Vec<StateRow> = sqlx::query_as(
        "SELECT number, hash, modified, who, command, lost, back_to FROM states \
         WHERE configuration = $1 ORDER BY number DESC LIMIT $2",
    )
    .bind(name.as_str())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(&mut **transaction)
    .await?;
    let state = |(number, hash, modified, who, command, lost, back_to): StateRow| {
        let number = number.cast_unsigned();
        let back_to = back_to.map(i64::cast_unsigned);
        Ok(State {
            number,
            hash: column(&hash)?,
            modified: timestamp(modified),
            who,
            command,
            current: number == current,
            lost,
            back_to,
        })
    };
    rows.into_iter().map(state).collect()
}

/// Saves `layers` as the new current state, and returns its number and id.
pub(super) async fn save(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    layers: Vec<Layer>,
    change: &Change,
) -> Result<(u64, Digest)> {
    let configuration = Configuration::new(name.clone(), layers, change.now)?;
    let last: Option<i64> =
        sqlx::query_scalar("SELECT MAX(number) FROM states WHERE configuration = $1")
            .bind(name.as_str())
            .fetch_one(&mut **transaction)
            .await?;
    let number = last.unwrap_or(0) + 1;
    sqlx::query(
        "INSERT INTO configurations (name, current) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET current = $2",
    )
    .bind(name.as_str())
    .bind(number)
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "INSERT INTO states (configuration, number, hash, modified, who, command) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(name.as_str())
    .bind(number)
    .bind(configuration.id().to_string())
    .bind(nanoseconds(change.now))
    .bind(&change.key)
    .bind(&change.command)
    .execute(&mut **transaction)
    .await?;
    put_layers(transaction, &configuration, number).await?;
    Ok((number.cast_unsigned(), configuration.id()))
}

/// Writes the layers of the state `number`.
pub(super) async fn put_layers(
    transaction: &mut Transaction<'_, Sqlite>,
    configuration: &Configuration,
    number: i64,
) -> Result<()> {
    for (position, layer) in (0_i64..).zip(configuration.layers()) {
        sqlx::query(
            "INSERT INTO state_layers \
             (configuration, number, position, component, version, digest, created) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(configuration.name().as_str())
        .bind(number)
        .bind(position)
        .bind(layer.component.as_str())
        .bind(layer.version.as_str())
        .bind(layer.digest.to_string())
        .bind(nanoseconds(layer.created))
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
