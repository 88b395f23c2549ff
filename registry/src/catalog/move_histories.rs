//! Moves the states of an earlier version's catalogue to the tables of this version, after
//! migration 7. Each configuration moves in its own transaction, so the next start can continue an
//! interrupted move.

#[cfg(test)]
mod tests;

use deploy_store::{Meter, Unit};

use super::{Catalog, Result};

impl Catalog {
    /// Moves all states that are still in the old tables, and drops these tables. `meter` counts
    /// the states.
    pub(super) async fn move_histories(&self, meter: &Meter) -> Result<()> {
        let old: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'old_states'",
        )
        .fetch_one(&self.writer)
        .await?;
        if old == 0 {
            return Ok(());
        }
        let count: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM old_states").fetch_one(&self.writer).await?;
        if count > 0 {
            tracing::info!("the catalogue has an earlier format; moving {count} states");
        }
        meter.begin("moved", Unit::Items("states"), count.cast_unsigned());
        let configurations: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, history FROM configurations ORDER BY history")
                .fetch_all(&self.writer)
                .await?;
        for (name, history) in configurations {
            meter.add(self.move_history(&name, history).await?);
        }
        let mut transaction = self.write_tx().await?;
        sqlx::query("DROP TABLE IF EXISTS old_state_layers").execute(&mut **transaction).await?;
        sqlx::query("DROP TABLE old_states").execute(&mut **transaction).await?;
        transaction.commit().await?;
        meter.end();
        Ok(())
    }

    /// Moves one history, and returns the number of its states.
    async fn move_history(&self, name: &str, history: i64) -> Result<u64> {
        let mut transaction = self.write_tx().await?;
        let moved: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM states WHERE history = $1")
            .bind(history)
            .fetch_one(&mut **transaction)
            .await?;
        if moved > 0 {
            return Ok(moved.cast_unsigned());
        }
        let states = sqlx::query(
            "INSERT INTO states (history, number, hash, modified, who, command, lost, back_to) \
             SELECT $1, number, hash, modified, who, command, lost, back_to FROM old_states \
             WHERE configuration = $2 ORDER BY number",
        )
        .bind(history)
        .bind(name)
        .execute(&mut **transaction)
        .await?
        .rows_affected();
        sqlx::query(
            "INSERT INTO state_layers \
             (history, number, position, component, version, digest, created) \
             SELECT $1, number, position, component, version, digest, created \
             FROM old_state_layers WHERE configuration = $2 ORDER BY number, position",
        )
        .bind(history)
        .bind(name)
        .execute(&mut **transaction)
        .await?;
        sqlx::query("UPDATE counters SET value = value + $1 WHERE name = 'states'")
            .bind(i64::try_from(states).unwrap_or(i64::MAX))
            .execute(&mut **transaction)
            .await?;
        transaction.commit().await?;
        Ok(states)
    }
}
