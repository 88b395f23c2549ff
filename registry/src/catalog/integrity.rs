//! Looks for damage in the catalogue.

use super::{Catalog, Result};

impl Catalog {
    /// Checks the database and returns one line for each problem.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut found: Vec<String> =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&self.pool).await?;
        found.retain(|line| line != "ok");
        let foreign: Vec<(String, Option<i64>, String, i64)> =
            sqlx::query_as("PRAGMA foreign_key_check").fetch_all(&self.pool).await?;
        found.extend(foreign.into_iter().map(|(table, row, parent, _)| {
            let row = row.map_or_else(String::new, |row| format!(" {row}"));
            format!("row{row} of {table} refers to a row that {parent} lacks")
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
}
