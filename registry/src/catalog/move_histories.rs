//! Moves the states in a catalogue of an earlier version to the tables of this version, after
//! migration 7. Each configuration moves in its own transaction, so the next start can continue an
//! interrupted move.

#[cfg(test)]
mod tests;

use deploy_store::{Meter, Unit};

use super::database::Database;
use super::tx::{query, query_as, query_scalar};
use super::{Catalog, Result};

impl Catalog {
    /// Moves all states that are still in the old tables, and drops these tables. `meter` counts
    /// the states.
    pub(super) async fn move_histories(&self, meter: &Meter) -> Result<()> {
        if !self.has_old_states().await? {
            return Ok(());
        }
        let count: i64 = query_scalar("SELECT COUNT(*) FROM old_states")
            .fetch_one(&mut self.read_tx().await?)
            .await?;
        if count > 0 {
            tracing::info!("the catalogue has an earlier format; states to move: {count}");
        }
        meter.begin("moved", Unit::Items("states"), count.cast_unsigned());
        let configurations: Vec<(String, i64)> =
            query_as("SELECT name, history FROM configurations ORDER BY history")
                .fetch_all(&mut self.read_tx().await?)
                .await?;
        for (name, history) in configurations {
            meter.add(self.move_history(&name, history).await?);
        }
        let mut transaction = self.write_tx().await?;
        query("DROP TABLE IF EXISTS old_state_layers").execute(&mut transaction).await?;
        query("DROP TABLE old_states").execute(&mut transaction).await?;
        transaction.commit().await?;
        meter.end();
        Ok(())
    }

    /// Whether the old tables still exist. Only a catalogue in a file can have these tables.
    async fn has_old_states(&self) -> Result<bool> {
        let Database::Sqlite { .. } = self.database else { return Ok(false) };
        let query =
            "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'old_states'";
        let old: i64 = query_scalar(query).fetch_one(&mut self.read_tx().await?).await?;
        Ok(old > 0)
    }

    /// Moves one history. Returns the number of its states, even if the history was moved before.
    async fn move_history(&self, name: &str, history: i64) -> Result<u64> {
        let mut transaction = self.write_tx().await?;
        let moved: i64 = query_scalar("SELECT COUNT(*) FROM states WHERE history = $1")
            .bind(history)
            .fetch_one(&mut transaction)
            .await?;
        if moved > 0 {
            return Ok(moved.cast_unsigned());
        }
        let states = query(
            "INSERT INTO states (history, number, hash, modified, who, command, lost, back_to) \
             SELECT $1, number, hash, modified, who, command, lost, back_to FROM old_states \
             WHERE configuration = $2 ORDER BY number",
        )
        .bind(history)
        .bind(name)
        .execute(&mut transaction)
        .await?;
        query(
            "INSERT INTO state_layers \
             (history, number, position, component, version, digest, created) \
             SELECT $1, number, position, component, version, digest, created \
             FROM old_state_layers WHERE configuration = $2 ORDER BY number, position",
        )
        .bind(history)
        .bind(name)
        .execute(&mut transaction)
        .await?;
        query("UPDATE counters SET value = value + $1 WHERE name = 'states'")
            .bind(i64::try_from(states).unwrap_or(i64::MAX))
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(states)
    }
}
