//! Reads and writes the rows of configurations and of their states. Every change of a
//! configuration's layers makes a new state. The states are numbered from 1, and one state is
//! current.

use deploy_store::{Configuration, ConfigurationName, Digest, Layer};
use jiff::Timestamp;

use super::audit::Change;
use super::counters::count;
use super::fleet::events::{self, Kind};
use super::fleet::{freezes, running};
use super::rollouts;
use super::rollouts::staging::{self, Proposal};
use super::tx::{Tx, query, query_as, query_scalar};
use super::uses::{self, Candidate};
use super::versions::{Row, layer};
use super::write_tx::WriteTx;
use super::{Error, Result, bad_row, column, nanoseconds, timestamp};

/// A state of a configuration, without its layers.
#[derive(Debug, Clone)]
pub struct State {
    /// The state's number.
    pub number: u64,
    /// The id of the state: the digest of its layers' digests.
    pub hash: Digest,
    /// The time at which the state was made.
    pub modified: Timestamp,
    /// The fingerprint and the comment of the key that made the state.
    pub who: String,
    /// The command that made the state.
    pub command: String,
    /// Whether this state is the current state of the configuration.
    pub current: bool,
    /// Whether the state was imported although a file of its layers was missing.
    pub lost: bool,
    /// The number of the restored state, if a rollback made this state.
    pub back_to: Option<u64>,
    /// Whether the state is only the target of a rollout, and was never current.
    pub proposed: bool,
}

/// The columns of a state, in the order of the query in [`states`].
type StateRow = (i64, String, i64, String, String, bool, Option<i64>, bool);

/// The number of the configuration's current state, if the configuration exists.
pub(super) async fn find_current(
    transaction: &mut Tx,
    name: &ConfigurationName,
) -> Result<Option<u64>> {
    let number: Option<i64> = query_scalar("SELECT current FROM configurations WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
    Ok(number.map(i64::cast_unsigned))
}

/// The number of the configuration's history, if the configuration exists.
pub(super) async fn find_history(
    transaction: &mut Tx,
    name: &ConfigurationName,
) -> Result<Option<i64>> {
    Ok(query_scalar("SELECT history FROM configurations WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(&mut *transaction)
        .await?)
}

/// The number of the configuration's current state, or [`Error::NotFound`].
pub(super) async fn require_current(transaction: &mut Tx, name: &ConfigurationName) -> Result<u64> {
    let number = find_current(transaction, name).await?;
    number.ok_or_else(|| Error::NotFound(format!("configuration \"{name}\" not found")))
}

/// The state `number` of the configuration, with its layers.
pub(super) async fn load(
    transaction: &mut Tx,
    name: &ConfigurationName,
    number: u64,
) -> Result<Configuration> {
    let modified: i64 = query_scalar(
        "SELECT modified FROM states WHERE number = $2 \
         AND history = (SELECT history FROM configurations WHERE name = $1)",
    )
    .bind(name.as_str())
    .bind(number.cast_signed())
    .fetch_one(&mut *transaction)
    .await?;
    let rows: Vec<Row> = query_as(
        "SELECT component, version, digest, created FROM state_layers WHERE number = $2 \
         AND history = (SELECT history FROM configurations WHERE name = $1) ORDER BY position",
    )
    .bind(name.as_str())
    .bind(number.cast_signed())
    .fetch_all(&mut *transaction)
    .await?;
    let layers = rows.into_iter().map(layer).collect::<Result<_>>()?;
    Configuration::new(name.clone(), layers, timestamp(modified)).map_err(|err| bad_row(&err))
}

/// The first `limit` states with numbers above `after`, with their layers, oldest first.
pub(super) async fn load_after(
    transaction: &mut Tx,
    name: &ConfigurationName,
    after: u64,
    limit: u64,
) -> Result<Vec<(u64, Configuration)>> {
    let rows: Vec<(i64, i64, String, String, String, i64)> = query_as(
        "SELECT s.number, s.modified, l.component, l.version, l.digest, l.created \
         FROM (SELECT history, number, modified FROM states WHERE number > $2 \
               AND history = (SELECT history FROM configurations WHERE name = $1) \
               ORDER BY number LIMIT $3) AS s \
         JOIN state_layers l ON l.history = s.history AND l.number = s.number \
         ORDER BY s.number, l.position",
    )
    .bind(name.as_str())
    .bind(after.cast_signed())
    .bind(limit.cast_signed())
    .fetch_all(&mut *transaction)
    .await?;
    let mut states = Vec::new();
    for rows in rows.chunk_by(|one, other| one.0 == other.0) {
        let (number, modified, ..) = rows[0];
        let layers = rows.iter().cloned().map(|(_, _, component, version, digest, created)| {
            layer((component, version, digest, created))
        });
        let layers = layers.collect::<Result<_>>()?;
        let state = Configuration::new(name.clone(), layers, timestamp(modified));
        states.push((number.cast_unsigned(), state.map_err(|err| bad_row(&err))?));
    }
    Ok(states)
}

/// Fails with [`Error::NotFound`] if the configuration has no state `number`.
pub(super) async fn require_state(
    transaction: &mut Tx,
    name: &ConfigurationName,
    number: u64,
) -> Result<()> {
    let count: i64 = query_scalar(
        "SELECT COUNT(*) FROM states WHERE number = $2 \
         AND history = (SELECT history FROM configurations WHERE name = $1)",
    )
    .bind(name.as_str())
    .bind(number.cast_signed())
    .fetch_one(&mut *transaction)
    .await?;
    if count == 0 {
        let text = format!("configuration \"{name}\" has no state {number}");
        return Err(Error::NotFound(text));
    }
    Ok(())
}

/// The newest `limit` states with numbers below `before`, without their layers, newest first.
pub(super) async fn states(
    transaction: &mut Tx,
    name: &ConfigurationName,
    before: Option<u64>,
    limit: u64,
) -> Result<Vec<State>> {
    let current = require_current(transaction, name).await?;
    let rows: Vec<StateRow> = query_as(
        "SELECT number, hash, modified, who, command, lost, back_to, proposed FROM states \
         WHERE history = (SELECT history FROM configurations WHERE name = $1) AND number < $2 \
         ORDER BY number DESC LIMIT $3",
    )
    .bind(name.as_str())
    .bind(before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(&mut *transaction)
    .await?;
    let state = |(number, hash, modified, who, command, lost, back_to, proposed): StateRow| {
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
            proposed,
        })
    };
    rows.into_iter().map(state).collect()
}

/// The newest state before the state `number` that was ever current.
pub(super) async fn current_before(
    transaction: &mut Tx,
    name: &ConfigurationName,
    number: u64,
) -> Result<Option<u64>> {
    let found: Option<i64> = query_scalar(
        "SELECT number FROM states \
         WHERE history = (SELECT history FROM configurations WHERE name = $1) AND number < $2 \
         AND NOT proposed ORDER BY number DESC LIMIT 1",
    )
    .bind(name.as_str())
    .bind(i64::try_from(number).unwrap_or(i64::MAX))
    .fetch_optional(transaction)
    .await?;
    Ok(found.map(i64::cast_unsigned))
}

/// Saves `layers` as a new state, and returns the state's number and id. The state becomes current
/// at once, unless the change starts a rollout.
pub(super) async fn save(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    layers: Vec<Layer>,
    change: &Change,
) -> Result<(u64, Digest)> {
    if !change.overrides {
        freezes::check(transaction, name, change.now).await?;
    }
    staging::make_way(transaction, name, change).await?;
    let configuration = Configuration::new(name.clone(), layers, change.now)?;
    let history = match find_history(transaction, name).await? {
        Some(history) => history,
        None => count(transaction, "history", 1).await?,
    };
    let last: Option<i64> = query_scalar("SELECT MAX(number) FROM states WHERE history = $1")
        .bind(history)
        .fetch_one(&mut *transaction)
        .await?;
    let number = last.unwrap_or(0) + 1;
    let revision = count(transaction, "revision", 1).await?;
    let id = configuration.id();
    let hash = id.to_string();
    query(
        "INSERT INTO states (history, number, hash, modified, who, command) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(history)
    .bind(number)
    .bind(&hash)
    .bind(nanoseconds(change.now))
    .bind(&change.key)
    .bind(&change.command)
    .execute(&mut *transaction)
    .await?;
    put_layers(transaction, history, number, configuration.layers()).await?;
    count(transaction, "states", 1).await?;
    let proposal = Proposal { name, history, number, id, revision };
    if staging::start(transaction, &proposal, change).await? {
        return Ok((number.cast_unsigned(), id));
    }
    transaction.changes(name);
    query(
        "INSERT INTO configurations (name, current, history, revision) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO UPDATE SET current = $2, revision = $4",
    )
    .bind(name.as_str())
    .bind(number)
    .bind(history)
    .bind(revision)
    .execute(&mut *transaction)
    .await?;
    uses::add(transaction, history, &Candidate { number, hash, lost: false }).await?;
    let message = format!("state {number}, {id}");
    events::add(transaction, change.now, Kind::Changed, name.as_str(), "", &message).await?;
    Ok((number.cast_unsigned(), id))
}

/// Deletes a configuration. The rows of its history stay until gc removes them.
pub(super) async fn delete(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    history: i64,
    change: &Change,
) -> Result<()> {
    if !change.overrides {
        freezes::check(transaction, name, change.now).await?;
    }
    transaction.changes(name);
    rollouts::forget(transaction, name, change).await?;
    running::forget(transaction, name, history).await?;
    events::add(transaction, change.now, Kind::Deleted, name.as_str(), "", "").await?;
    uses::delete(transaction, history).await?;
    let states: i64 = query_scalar("SELECT COUNT(*) FROM states WHERE history = $1")
        .bind(history)
        .fetch_one(&mut *transaction)
        .await?;
    count(transaction, "states", -states).await?;
    query("DELETE FROM configurations WHERE name = $1")
        .bind(name.as_str())
        .execute(&mut *transaction)
        .await?;
    query("INSERT INTO removed_histories (history) VALUES ($1)")
        .bind(history)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

/// Writes the layers of the state `number`.
pub(super) async fn put_layers(
    transaction: &mut Tx,
    history: i64,
    number: i64,
    layers: &[Layer],
) -> Result<()> {
    for (position, layer) in (0_i64..).zip(layers) {
        query(
            "INSERT INTO state_layers \
             (history, number, position, component, version, digest, created) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(history)
        .bind(number)
        .bind(position)
        .bind(layer.component.as_str())
        .bind(layer.version.as_str())
        .bind(layer.digest.to_string())
        .bind(nanoseconds(layer.created))
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}
