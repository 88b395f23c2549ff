//! Reads and writes the rows of the registries that share a catalogue, and their duties: work that
//! only one registry does at a time.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use deploy_store::escape;
use jiff::Timestamp;

use super::sharing::Described;
use super::tx::{Tx, from_row, query, query_as, query_scalar};
use super::{Catalog, Error, Result, heartbeat, nanoseconds_of, timestamp};

/// A registry without a heartbeat for this time is away.
const AWAY_AFTER: Duration = Duration::from_secs(10);

/// A registry that shares the catalogue. All times are by the clock of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRow {
    /// The random id of this start of the registry.
    pub id: String,
    /// What the registry says about itself.
    pub described: Described,
    /// When the registry started.
    pub started: Timestamp,
    /// The last heartbeat.
    pub heartbeat: Timestamp,
    /// Whether the registry has ended in the usual way.
    pub stopped: bool,
}

/// The registries that share the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    /// The present time, by the clock of the database.
    pub now: Timestamp,
    /// The id of this registry.
    pub own: String,
    /// The registries, in the order of their starts.
    pub rows: Vec<RegistryRow>,
}

impl RegistryRow {
    /// Whether the registry runs, as far as the catalogue knows.
    pub fn is_there(&self, now: Timestamp) -> bool {
        let silence = Duration::try_from(now.duration_since(self.heartbeat)).unwrap_or_default();
        !self.stopped && silence < AWAY_AFTER
    }
}

from_row!(RegistryRow, |row| {
    use sqlx::Row as _;
    Ok(Self {
        id: row.try_get("id")?,
        described: Described {
            address: row.try_get("address")?,
            version: row.try_get("version")?,
            host_key: row.try_get("host_key")?,
            operators: row.try_get("operators")?,
            services: row.try_get("services")?,
        },
        started: timestamp(row.try_get("started")?),
        heartbeat: timestamp(row.try_get("heartbeat")?),
        stopped: row.try_get("stopped")?,
    })
});

impl Catalog {
    /// Whether several registries may use the catalogue.
    pub fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// The registries that share the catalogue. There are none if only one registry may use it.
    pub async fn registries(&self) -> Result<Registries> {
        let mut transaction = self.read_tx().await?;
        let rows = query_as("SELECT * FROM registries ORDER BY started, id");
        let rows: Vec<RegistryRow> = rows.fetch_all(&mut transaction).await?;
        let now = timestamp(transaction.now().await?);
        Ok(Registries { now, own: self.own.clone(), rows })
    }

    /// The time of a change. If the catalogue is shared, this is the clock of the database: registries
    /// compare such times with each other, and their own clocks may differ.
    pub(super) async fn time_of_change(
        &self,
        transaction: &mut Tx,
        own: Timestamp,
    ) -> Result<Timestamp> {
        Ok(if self.is_shared() { timestamp(transaction.now().await?) } else { own })
    }

    /// Records what this registry says about itself.
    pub async fn describe(&self, described: Described) -> Result<()> {
        let Some(sharing) = &self.sharing else { return Ok(()) };
        *sharing.described.write().unwrap_or_else(PoisonError::into_inner) = described;
        heartbeat::beat(sharing).await
    }

    /// Takes a duty, or keeps it. Returns whether this registry has the duty now: no other registry
    /// has it, or the other registry is away. If the catalogue has only one registry, it has all
    /// duties.
    pub async fn takes_duty(&self, name: &str) -> Result<bool> {
        if !self.is_shared() {
            return Ok(true);
        }
        let holder: Option<String> = query_scalar("SELECT registry FROM duties WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut self.read_tx().await?)
            .await?;
        if holder.as_deref() == Some(self.session_id()) {
            return Ok(true);
        }
        let mut transaction = self.begin_write().await?;
        let away = nanoseconds_of(AWAY_AFTER);
        let now = transaction.now().await?;
        let taken = query(
            "INSERT INTO duties (name, registry) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET registry = $2 WHERE NOT EXISTS \
               (SELECT 1 FROM registries r WHERE r.id = duties.registry AND NOT r.stopped \
                AND r.heartbeat > $3)",
        )
        .bind(name)
        .bind(self.session_id())
        .bind(now.saturating_sub(away))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(taken == 1)
    }
}

/// The last heartbeat of each registry, in nanoseconds since 1970.
pub(super) async fn heartbeats(transaction: &mut Tx) -> Result<HashMap<String, i64>> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT id, heartbeat FROM registries").fetch_all(transaction).await?;
    Ok(rows.into_iter().collect())
}

/// Fails if a registry that shares the catalogue runs, as far as the catalogue knows.
pub(super) async fn require_none(transaction: &mut Tx) -> Result<()> {
    let rows = query_as("SELECT * FROM registries ORDER BY started, id");
    let rows: Vec<RegistryRow> = rows.fetch_all(transaction).await?;
    let now = timestamp(transaction.now().await?);
    refusal(&rows, now).map_or(Ok(()), |why| Err(Error::Conflict(why)))
}

/// Why no migration may begin: registries of the catalogue run. `None` if none of them runs.
fn refusal(rows: &[RegistryRow], now: Timestamp) -> Option<String> {
    let running = rows.iter().filter(|row| row.is_there(now));
    let shown = |row: &RegistryRow| match &*row.described.address {
        "" => "an unknown address".to_owned(),
        address => escape(address).to_string(),
    };
    let running: Vec<String> = running.map(shown).collect();
    (!running.is_empty()).then(|| {
        format!(
            "migrate: registries use this catalogue, at {}; stop all registries first, and wait {} \
             seconds if one was killed; nothing was changed",
            running.join(", "),
            AWAY_AFTER.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_without_a_heartbeat_is_away() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let row = RegistryRow {
            id: "a".to_owned(),
            described: Described::default(),
            started: time(0),
            heartbeat: time(100),
            stopped: false,
        };
        assert!(row.is_there(time(99)) && row.is_there(time(109)));
        assert!(!row.is_there(time(110)));
        assert!(!RegistryRow { stopped: true, ..row }.is_there(time(100)));
    }

    #[test]
    fn migration_is_refused_while_a_registry_runs() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let row = |address: &str, second, stopped| RegistryRow {
            id: "a".to_owned(),
            described: Described { address: address.to_owned(), ..Described::default() },
            started: time(0),
            heartbeat: time(second),
            stopped,
        };
        let silent = [row("one:2022", 100, true), row("two:2022", 90, false)];
        assert_eq!(refusal(&silent, time(100)), None);
        let running = [row("one:2022", 100, false), row("two:2022", 90, false), row("", 95, false)];
        assert_eq!(
            refusal(&running, time(100)).unwrap(),
            "migrate: registries use this catalogue, at one:2022, an unknown address; stop all \
             registries first, and wait 10 seconds if one was killed; nothing was changed"
        );
    }
}
