//! Reads and writes the events of the fleet, in order. Each event has a number. After a
//! disconnection, a client gives the number of the last event that it received, and resumes after
//! this event.

use std::fmt;

use deploy_store::ConfigurationName;
use jiff::Timestamp;

use crate::catalog::counters::count;
use crate::catalog::tx::{Tx, query, query_as, query_scalar};
use crate::catalog::{Catalog, Result, nanoseconds, timestamp};

/// Number of events that remain after the registry has removed old events.
pub const MOST: i64 = 100_000;
/// Number of new events after which the registry removes the oldest events. So most transactions
/// that add an event need not remove events.
const SLACK: i64 = 1000;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A configuration has a new current state.
    Changed,
    /// A configuration was deleted.
    Deleted,
    /// A host was added, at its first report or when a wave of a rollout included the host.
    HostAdded,
    /// Two agents report under the same host name.
    HostDuplicate,
    /// A host was retired.
    HostRetired,
    /// An operator held a host, so the agents of this host deploy nothing new.
    HostHeld,
    /// An operator ended the hold of a host.
    HostReleased,
    /// A deploy succeeded.
    Healthy,
    /// A deploy failed.
    Failed,
    /// Health checks failed, and the agent deployed the previous state again.
    RolledBack,
    /// An agent will not retry a state that failed or was rolled back.
    Held,
    /// A rollout started.
    RolloutStarted,
    /// A rollout opened its next wave.
    RolloutWave,
    /// A host of a rollout failed, or an operator marked the host as failed.
    RolloutFailed,
    /// A rollout was paused.
    RolloutPaused,
    /// A paused or halted rollout continues.
    RolloutResumed,
    /// A rollout stopped, for example because too many hosts failed or are absent.
    RolloutHalted,
    /// An operator ended a rollout, and the registry offers the rollout's base to the hosts again.
    RolloutAborted,
    /// Another change of the configuration ended a rollout.
    RolloutSuperseded,
    /// A rollout succeeded: its target became the current state.
    RolloutSucceeded,
}

impl Kind {
    const ALL: [Self; 20] = [
        Self::Changed,
        Self::Deleted,
        Self::HostAdded,
        Self::HostDuplicate,
        Self::HostRetired,
        Self::HostHeld,
        Self::HostReleased,
        Self::Healthy,
        Self::Failed,
        Self::RolledBack,
        Self::Held,
        Self::RolloutStarted,
        Self::RolloutWave,
        Self::RolloutFailed,
        Self::RolloutPaused,
        Self::RolloutResumed,
        Self::RolloutHalted,
        Self::RolloutAborted,
        Self::RolloutSuperseded,
        Self::RolloutSucceeded,
    ];

    /// The name of the kind in the catalogue and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::HostAdded => "host_added",
            Self::HostDuplicate => "host_duplicate",
            Self::HostRetired => "host_retired",
            Self::HostHeld => "host_held",
            Self::HostReleased => "host_released",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Held => "held",
            Self::RolloutStarted => "rollout_started",
            Self::RolloutWave => "rollout_wave",
            Self::RolloutFailed => "rollout_failed",
            Self::RolloutPaused => "rollout_paused",
            Self::RolloutResumed => "rollout_resumed",
            Self::RolloutHalted => "rollout_halted",
            Self::RolloutAborted => "rollout_aborted",
            Self::RolloutSuperseded => "rollout_superseded",
            Self::RolloutSucceeded => "rollout_succeeded",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// An event of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The number of the event, from 1.
    pub number: u64,
    /// The time of the event, by the registry's clock.
    pub time: Timestamp,
    /// The kind; `None` if this version of the registry does not know the kind.
    pub kind: Option<Kind>,
    /// The configuration; empty if the event is about no configuration.
    pub configuration: String,
    /// The host; empty if the event is about no host.
    pub host: String,
    /// Details of the event, as a text for people.
    pub message: String,
}

type Row = (i64, i64, String, String, String, String);

fn event((number, time, kind, configuration, host, message): Row) -> Event {
    Event {
        number: number.cast_unsigned(),
        time: timestamp(time),
        kind: Kind::ALL.into_iter().find(|one| one.word() == kind),
        configuration,
        host,
        message,
    }
}

/// Adds an event. Every [`SLACK`] events, also deletes the oldest events.
pub async fn add(
    transaction: &mut Tx,
    now: Timestamp,
    kind: Kind,
    configuration: &str,
    host: &str,
    message: &str,
) -> Result<()> {
    let number = count(transaction, "event", 1).await?;
    query(
        "INSERT INTO events (number, time, kind, configuration, host, message) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(number)
    .bind(nanoseconds(now))
    .bind(kind.word())
    .bind(configuration)
    .bind(host)
    .bind(message)
    .execute(&mut *transaction)
    .await?;
    if number % SLACK == 0 {
        query("DELETE FROM events WHERE number <= $1")
            .bind(number - MOST)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(())
}

impl Catalog {
    /// The number of the newest event; 0 if there was no event yet.
    pub async fn last_event(&self) -> Result<u64> {
        let number: i64 = query_scalar("SELECT value FROM counters WHERE name = 'event'")
            .fetch_one(&mut self.read_tx().await?)
            .await?;
        Ok(number.cast_unsigned())
    }

    /// The oldest `limit` events with numbers above `after`, oldest first. With `name`, only events
    /// of this configuration.
    pub async fn events_after(
        &self,
        name: Option<&ConfigurationName>,
        after: u64,
        limit: u64,
    ) -> Result<Vec<Event>> {
        let query = "SELECT number, time, kind, configuration, host, message FROM events \
                     WHERE number > $1 AND ($2 = '' OR configuration = $2) \
                     ORDER BY number LIMIT $3";
        self.some_events(query, name, after, limit).await
    }

    /// The newest `limit` events with numbers above `after`, oldest first. With `name`, only events
    /// of this configuration.
    pub async fn newest_events(
        &self,
        name: Option<&ConfigurationName>,
        after: u64,
        limit: u64,
    ) -> Result<Vec<Event>> {
        let query = "SELECT number, time, kind, configuration, host, message FROM events \
                     WHERE number > $1 AND ($2 = '' OR configuration = $2) \
                     ORDER BY number DESC LIMIT $3";
        let mut events = self.some_events(query, name, after, limit).await?;
        events.reverse();
        Ok(events)
    }

    /// The newest `limit` events of a rollout that started at `started`, newest first.
    pub async fn rollout_events(
        &self,
        name: &ConfigurationName,
        rollout: u64,
        started: Timestamp,
        limit: u64,
    ) -> Result<Vec<Event>> {
        // Events from before the start are not about the rollout, so the query skips them.
        let rows: Vec<Row> = query_as(
            "SELECT number, time, kind, configuration, host, message FROM events \
             WHERE number > COALESCE((SELECT number FROM events WHERE time < $3 \
                                      ORDER BY number DESC LIMIT 1), 0) \
             AND configuration = $1 AND SUBSTR(kind, 1, 8) = 'rollout_' \
             AND (message = $2 OR SUBSTR(message, 1, LENGTH($2) + 1) = $2 || ':') \
             ORDER BY number DESC LIMIT $4",
        )
        .bind(name.as_str())
        .bind(format!("rollout {rollout}"))
        .bind(nanoseconds(started))
        .bind(limit.cast_signed())
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        Ok(rows.into_iter().map(event).collect())
    }

    async fn some_events(
        &self,
        query: &'static str,
        name: Option<&ConfigurationName>,
        after: u64,
        limit: u64,
    ) -> Result<Vec<Event>> {
        let rows: Vec<Row> = query_as(query)
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(name.map_or("", ConfigurationName::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut self.scan_tx().await?)
            .await?;
        Ok(rows.into_iter().map(event).collect())
    }
}
