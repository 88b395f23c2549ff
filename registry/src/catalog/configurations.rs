//! Configurations and their states. Every change makes a new state, numbered from 1;
//! one of them is current.

use deploy_store::{ComponentName, Configuration, ConfigurationName, Digest, Layer, VersionName};
use deploy_wire::command::Hash;
use deploy_wire::exit;
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::replacing::{check_whole, find_whole, is_there, replace};
use crate::catalog::versions::{Row, latest_version, layer};
use crate::catalog::{Catalog, Error, Result, nanoseconds, refuse, timestamp};

/// A state of a configuration, without its layers.
#[derive(Debug, Clone)]
pub struct State {
    /// Its number.
    pub number: u64,
    /// Digest over its layers.
    pub hash: Digest,
    /// When it was made.
    pub modified: Timestamp,
    /// By whom.
    pub who: String,
    /// With what command.
    pub command: String,
    /// Whether it is the current one.
    pub current: bool,
    /// Whether it was imported without the files of its layers.
    pub lost: bool,
    /// The state that it made current again, if it is a rollback's.
    pub back_to: Option<u64>,
}

impl Catalog {
    /// Names of all configurations, in byte order.
    pub async fn configuration_names(&self) -> Result<Vec<ConfigurationName>> {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM configurations ORDER BY name")
                .fetch_all(&self.pool)
                .await?;
        names.iter().map(|name| Ok(name.parse()?)).collect()
    }

    /// The current state of a configuration.
    pub async fn configuration(&self, name: &ConfigurationName) -> Result<Configuration> {
        let mut transaction = self.look().await?;
        let number = current(&mut transaction, name).await?;
        load(&mut transaction, name, number).await
    }

    /// Makes a configuration, or, if it may `replace`, replaces the layers of one. Returns the
    /// number of the state that was current before.
    pub async fn add_configuration(
        &self,
        name: &ConfigurationName,
        layers: &[(ComponentName, VersionName)],
        replace: bool,
        change: &Change,
    ) -> Result<Option<u64>> {
        let mut transaction = self.begin_change(change).await?;
        let mut found = Vec::with_capacity(layers.len());
        for (component, version) in layers {
            found.push(find_whole(&mut transaction, component, version).await?);
        }
        let before = match current(&mut transaction, name).await {
            Ok(number) => Some(number),
            Err(Error::Refused(_)) => None,
            Err(err) => return Err(err),
        };
        match before {
            None => name.check_new().map_err(|err| Error::Refused(err.into()))?,
            Some(_) if replace => {}
            Some(number) => {
                let there = load(&mut transaction, name, number).await?;
                return refuse(exit::CONFLICT, is_there(name, there.layers(), &found));
            }
        }
        save(&mut transaction, name, found, change).await?;
        transaction.commit().await?;
        Ok(before)
    }

    /// Replaces layers by the versions named. Returns the layers that were replaced by
    /// something else.
    pub async fn change_configuration(
        &self,
        name: &ConfigurationName,
        changes: &[(ComponentName, VersionName)],
        if_hash: Option<Hash>,
        change: &Change,
    ) -> Result<Vec<Layer>> {
        let mut transaction = self.begin_change(change).await?;
        let mut found = Vec::with_capacity(changes.len());
        for (component, version) in changes {
            found.push(find_whole(&mut transaction, component, version).await?);
        }
        let replaced = replace(&mut transaction, name, found, if_hash, change).await?;
        transaction.commit().await?;
        Ok(replaced.layers)
    }

    /// As [`Catalog::change_configuration`], by the versions that were added last. Where the
    /// configuration has them all, nothing is changed, and `None` returned.
    pub async fn bump_configuration(
        &self,
        name: &ConfigurationName,
        components: &[ComponentName],
        if_hash: Option<Hash>,
        change: &Change,
    ) -> Result<Option<Vec<Layer>>> {
        let mut transaction = self.begin_change(change).await?;
        let mut found = Vec::with_capacity(components.len());
        for component in components {
            let latest = latest_version(&mut transaction, component).await?;
            check_whole(&mut transaction, &latest).await?;
            found.push(latest);
        }
        let replaced = replace(&mut transaction, name, found, if_hash, change).await?;
        if !replaced.differs {
            transaction.rollback().await?;
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(replaced.layers))
    }

    /// Deletes a configuration with its history.
    pub async fn delete_configuration(
        &self,
        name: &ConfigurationName,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        match current(&mut transaction, name).await {
            Err(Error::Refused(_)) => {
                let text = format!("\"{name}\" configuration not found");
                return refuse(exit::NOT_FOUND, text);
            }
            other => other?,
        };
        for statement in [
            "DELETE FROM state_layers WHERE configuration = $1",
            "DELETE FROM states WHERE configuration = $1",
            "DELETE FROM configurations WHERE name = $1",
        ] {
            sqlx::query(statement).bind(name.as_str()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The states of a configuration, newest first, `limit` at most.
    pub async fn history(&self, name: &ConfigurationName, limit: u64) -> Result<Vec<State>> {
        let mut transaction = self.look().await?;
        states(&mut transaction, name, limit).await
    }

    /// All states of a configuration with their numbers and layers, oldest first.
    pub async fn states(&self, name: &ConfigurationName) -> Result<Vec<(u64, Configuration)>> {
        let mut transaction = self.look().await?;
        let mut all = Vec::new();
        for state in states(&mut transaction, name, u64::MAX).await?.iter().rev() {
            all.push((state.number, load(&mut transaction, name, state.number).await?));
        }
        Ok(all)
    }

    /// One state of a configuration.
    pub async fn state(&self, name: &ConfigurationName, number: u64) -> Result<Configuration> {
        let mut transaction = self.look().await?;
        let states = states(&mut transaction, name, u64::MAX).await?;
        if !states.iter().any(|state| state.number == number) {
            let text = format!("configuration \"{name}\" has no state {number}");
            return refuse(exit::NOT_FOUND, text);
        }
        load(&mut transaction, name, number).await
    }

    /// Two states of a configuration with their numbers: `to`, or the current one, and
    /// `from`, or the one before that; the earlier one first.
    pub async fn two_states(
        &self,
        name: &ConfigurationName,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<((u64, Configuration), (u64, Configuration))> {
        let mut transaction = self.look().await?;
        let states = states(&mut transaction, name, u64::MAX).await?;
        let to = match to {
            Some(number) => number,
            None => current(&mut transaction, name).await?,
        };
        let before = || states.iter().map(|state| state.number).find(|number| *number < to);
        let Some(from) = from.or_else(before) else {
            let text = format!("configuration \"{name}\" has no state before {to}");
            return refuse(exit::NOT_FOUND, text);
        };
        for number in [from, to] {
            if !states.iter().any(|state| state.number == number) {
                let text = format!("configuration \"{name}\" has no state {number}");
                return refuse(exit::NOT_FOUND, text);
            }
        }
        let one = load(&mut transaction, name, from).await?;
        let other = load(&mut transaction, name, to).await?;
        Ok(((from, one), (to, other)))
    }
}

/// Number, hash, time, who, command, whether it is lost, and what it went back to.
type StateRow = (i64, String, i64, String, String, bool, Option<i64>);

/// Number of the current state.
pub(super) async fn current(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
) -> Result<u64> {
    let number: Option<i64> =
        sqlx::query_scalar("SELECT current FROM configurations WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut **transaction)
            .await?;
    match number {
        Some(number) => Ok(number.cast_unsigned()),
        None => refuse(exit::NOT_FOUND, format!("configuration \"{name}\" not found")),
    }
}

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
    Ok(Configuration::new(name.clone(), layers, timestamp(modified))?)
}

pub(super) async fn states(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    limit: u64,
) -> Result<Vec<State>> {
    let current = current(transaction, name).await?;
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
            hash: hash.parse()?,
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

/// Saves `layers` as the new current state; its number and id.
pub(super) async fn save(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    layers: Vec<Layer>,
    change: &Change,
) -> Result<(u64, Digest)> {
    let configuration = Configuration::new(name.clone(), layers, change.now)
        .map_err(|err| Error::Refused(err.into()))?;
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
    .bind(&change.who)
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
