//! Checks the catalogue for damage.

use sqlx::sqlite::SqlitePool;

use super::tx::{query_as, query_scalar};
use super::{Catalog, Result};

/// The tables that two checks read: [`at_start`] and [`Catalog::check_kept`]. Unlike the tables of
/// states, these tables do not grow with every change of a configuration.
const TABLES: [&str; 6] = ["components", "versions", "pins", "configurations", "blobs", "uses"];

/// Contradictions between rows. Each item has the text for a problem, and the query for the names
/// of the affected configurations.
const CONTRADICTIONS: [(&str, &str); 2] = [
    (
        "its current state is missing",
        "SELECT name FROM configurations c WHERE NOT EXISTS \
         (SELECT 1 FROM states s WHERE s.history = c.history AND s.number = c.current)",
    ),
    (
        "a state has no layers",
        "SELECT name FROM configurations c WHERE NOT EXISTS \
         (SELECT 1 FROM state_layers l WHERE l.history = c.history AND l.number = c.current)",
    ),
];

/// Looks for damage in a database file right after the file was opened, and returns the first
/// problem. In a catalogue of this version, the function checks only the tables in [`TABLES`]. In a
/// catalogue of an earlier version, it checks all tables. The verb `verify` checks all histories.
pub(super) async fn at_start(database: &SqlitePool) -> sqlx::Result<Option<String>> {
    let is_of_this_version: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'uses') \
         AND NOT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'old_states')",
    )
    .fetch_one(database)
    .await?;
    let checks = if is_of_this_version {
        TABLES.map(|table| format!("PRAGMA quick_check({table})")).to_vec()
    } else {
        vec!["PRAGMA quick_check(1)".to_owned()]
    };
    for check in checks {
        let line: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(check)).fetch_one(database).await?;
        if line != "ok" {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

impl Catalog {
    /// Checks the whole database, and returns one line for each problem. The time of the check
    /// grows with the number of states.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut found = self.check_structure(&["PRAGMA integrity_check".to_owned()]).await?;
        found.extend(self.check_foreign_keys().await?);
        found.extend(self.check_contradictions().await?);
        let empty: Vec<String> = query_scalar(
            "SELECT c.name FROM configurations c JOIN states s ON s.history = c.history \
             WHERE s.number != c.current AND NOT EXISTS (SELECT 1 FROM state_layers l \
             WHERE l.history = s.history AND l.number = s.number) GROUP BY c.name",
        )
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        let line = |name: String| format!("configuration {name:?}: a state has no layers");
        found.extend(empty.into_iter().map(line));
        let (counted, states): (i64, i64) = query_as(
            "SELECT (SELECT value FROM counters WHERE name = 'states'), \
             (SELECT COUNT(*) FROM states WHERE history IN (SELECT history FROM configurations))",
        )
        .fetch_one(&mut self.scan_tx().await?)
        .await?;
        if counted != states {
            found.push(format!("the counter of states is {counted}, but {states} states exist"));
        }
        Ok(found)
    }

    /// Checks the rows that gc relies on, and returns one line for each problem. In each history,
    /// the check reads only the newest states, back to the oldest kept state.
    pub async fn check_kept(&self) -> Result<Vec<String>> {
        let checks: Vec<String> =
            TABLES.iter().map(|table| format!("PRAGMA integrity_check({table})")).collect();
        let mut found = self.check_structure(&checks).await?;
        let is_file = !self.database.is_on_server();
        for table in ["versions", "pins"].into_iter().filter(|_| is_file) {
            let query = format!("SELECT COUNT(*) FROM pragma_foreign_key_check('{table}')");
            let count: i64 = query_scalar(sqlx::AssertSqlSafe(query))
                .fetch_one(&mut self.scan_tx().await?)
                .await?;
            if count > 0 {
                found.push(format!("rows of {table} that refer to missing rows: {count}"));
            }
        }
        found.extend(self.check_contradictions().await?);
        Ok(found)
    }

    async fn check_foreign_keys(&self) -> Result<Vec<String>> {
        if self.database.is_on_server() {
            return Ok(Vec::new());
        }
        let foreign: Vec<(String, Option<i64>, String, i64)> =
            query_as("PRAGMA foreign_key_check").fetch_all(&mut self.scan_tx().await?).await?;
        let problem = |(table, row, parent, _): (String, Option<i64>, String, i64)| {
            let row = row.map_or_else(String::new, |row| format!(" {row}"));
            format!("row{row} of {table} refers to a missing row of {parent}")
        };
        Ok(foreign.into_iter().map(problem).collect())
    }

    async fn check_structure(&self, checks: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        // A server checks its own pages and its foreign keys.
        if self.database.is_on_server() {
            return Ok(found);
        }
        for check in checks {
            let lines: Vec<String> = query_scalar(sqlx::AssertSqlSafe(check.clone()))
                .fetch_all(&mut self.scan_tx().await?)
                .await?;
            found.extend(lines.into_iter().filter(|line| line != "ok"));
        }
        Ok(found)
    }

    async fn check_contradictions(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (what, query) in CONTRADICTIONS {
            let names: Vec<String> =
                query_scalar(query).fetch_all(&mut self.scan_tx().await?).await?;
            found.extend(names.into_iter().map(|name| format!("configuration {name:?}: {what}")));
        }
        for name in self.wrong_uses().await? {
            let what = "the table of needed layers does not match the configuration's kept states";
            found.push(format!("configuration {name:?}: {what}"));
        }
        Ok(found)
    }
}
