//! Looking for damage in the catalogue, and notes of what was found when.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalog::{Catalog, Result};
use crate::verbs::collect::Count;
use crate::verbs::stat::Counts;

impl Catalog {
    /// What of the database is not as it must be, a line each.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut found: Vec<String> =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&self.pool).await?;
        found.retain(|line| line != "ok");
        let foreign: Vec<(String, Option<i64>, String, i64)> =
            sqlx::query_as("PRAGMA foreign_key_check").fetch_all(&self.pool).await?;
        found.extend(foreign.into_iter().map(|(table, row, parent, _)| {
            let row = row.map_or_else(String::new, |row| format!(" {row}"));
            format!("row{row} of {table} refers to what is not in {parent}")
        }));
        for (what, query) in [
            (
                "its current state is not there",
                "SELECT name FROM configurations c WHERE NOT EXISTS \
                 (SELECT 1 FROM states s WHERE s.configuration = c.name AND s.number = c.current)",
            ),
            (
                "a state has no layers",
                "SELECT DISTINCT configuration FROM states s WHERE NOT EXISTS \
                 (SELECT 1 FROM state_layers l \
                  WHERE l.configuration = s.configuration AND l.number = s.number)",
            ),
        ] {
            let names: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.pool).await?;
            let line = |name: String| format!("configuration {name:?}: {what}");
            found.extend(names.into_iter().map(line));
        }
        Ok(found)
    }

    /// How many of everything there are.
    pub async fn counts(&self) -> Result<Counts> {
        let (components, versions, pins, configurations, states): (i64, i64, i64, i64, i64) =
            sqlx::query_as(
                "SELECT (SELECT COUNT(*) FROM components), (SELECT COUNT(*) FROM versions), \
                 (SELECT COUNT(*) FROM pins), (SELECT COUNT(*) FROM configurations), \
                 (SELECT COUNT(*) FROM states)",
            )
            .fetch_one(&self.pool)
            .await?;
        Ok(Counts {
            components: components.cast_unsigned(),
            versions: versions.cast_unsigned(),
            pins: pins.cast_unsigned(),
            configurations: configurations.cast_unsigned(),
            states: states.cast_unsigned(),
        })
    }

    /// What all versions would take if each had a blob of its own.
    pub async fn bound(&self) -> Result<Count> {
        let (blobs, bytes): (i64, i64) = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(b.bytes), 0) FROM versions v \
             LEFT JOIN blobs b ON b.digest = v.digest",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Count { blobs: blobs.cast_unsigned(), bytes: bytes.cast_unsigned() })
    }

    /// What was noted under `name`; nothing too if it cannot be read.
    pub async fn note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let text: Option<String> = sqlx::query_scalar("SELECT value FROM notes WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Notes `value` under `name`.
    pub async fn set_note(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).unwrap_or_default();
        sqlx::query(
            "INSERT INTO notes (name, value) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET value = $2",
        )
        .bind(name)
        .bind(text)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
