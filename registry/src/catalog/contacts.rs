//! Exchanges, between the registries of a shared catalogue, which agents are connected and which
//! agents poll. These rows are no changes: a registry writes many of them with one statement, and
//! without the lock of the changes.

use serde::{Deserialize, Serialize};

use super::tx::{SERVER_NOW, from_row, query, query_as};
use super::{Catalog, Result, single_statement};

/// Maximum number of rows that one statement writes.
pub const BATCH: usize = 2000;
/// How far back a registry reads rows again, in nanoseconds: a row may become visible some time after
/// the time in its column `written`.
const OVERLAP: i64 = 10_000_000_000;

/// An agent that is or was connected to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactRow {
    /// The id of the registry. Empty in a row that this registry is about to write.
    #[serde(default)]
    pub registry: String,
    /// The configuration.
    pub configuration: String,
    /// The name of the host.
    pub host: String,
    /// The random id of the agent's directory.
    pub instance: String,
    /// The agent's address.
    pub address: String,
    /// Whether the agent is connected.
    pub connected: bool,
    /// Whether several agents are connected to this registry under the same name.
    pub duplicate: bool,
    /// When the agent connected, or was last seen, in nanoseconds since 1970.
    pub time: i64,
}

/// The last poll of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollRow {
    /// The configuration.
    pub configuration: String,
    /// The fingerprint of the agent's key.
    pub key: String,
    /// The agent's address.
    pub address: String,
    /// The time in nanoseconds since 1970.
    pub time: i64,
    /// The number of the last rollout whose target the agent has read, or 0.
    pub fetched: i64,
}

from_row!(ContactRow, |row| {
    use sqlx::Row as _;
    Ok(Self {
        registry: row.try_get("registry")?,
        configuration: row.try_get("configuration")?,
        host: row.try_get("host")?,
        instance: row.try_get("instance")?,
        address: row.try_get("address")?,
        connected: row.try_get("connected")?,
        duplicate: row.try_get("duplicate")?,
        time: row.try_get("time")?,
    })
});

from_row!(PollRow, |row| {
    use sqlx::Row as _;
    Ok(Self {
        configuration: row.try_get("configuration")?,
        key: row.try_get("key")?,
        address: row.try_get("address")?,
        time: row.try_get("time")?,
        fetched: row.try_get("fetched")?,
    })
});

impl Catalog {
    /// The time from which the next call of [`Catalog::contacts_since`] has to read.
    pub async fn contacts_mark(&self) -> Result<i64> {
        let Some(server) = self.database.server() else { return Ok(0) };
        let now = query_as(sqlx::AssertSqlSafe(format!("SELECT {SERVER_NOW} - {OVERLAP}")));
        let (mark,): (i64,) = single_statement::fetch_one(server, now).await?;
        Ok(mark)
    }

    /// The contacts that other registries have written since `mark`.
    pub async fn contacts_since(&self, mark: i64) -> Result<Vec<ContactRow>> {
        let Some(server) = self.database.server() else { return Ok(Vec::new()) };
        let rows = query_as(
            "SELECT registry, configuration, host, instance, address, connected, duplicate, time \
             FROM contacts WHERE written >= $1 AND registry <> $2",
        );
        single_statement::fetch_all(server, rows.bind(mark).bind(self.session_id())).await
    }

    /// The polls that any registry has written since `mark`.
    pub async fn polls_since(&self, mark: i64) -> Result<Vec<PollRow>> {
        let Some(server) = self.database.server() else { return Ok(Vec::new()) };
        let rows = query_as(
            "SELECT configuration, key, address, time, fetched FROM polls WHERE written >= $1",
        );
        single_statement::fetch_all(server, rows.bind(mark)).await
    }

    /// Writes contacts of this registry.
    pub async fn write_contacts(&self, rows: &[ContactRow]) -> Result<()> {
        let Some(server) = self.database.server() else { return Ok(()) };
        let sql = format!(
            "INSERT INTO contacts (registry, configuration, host, instance, address, connected, \
             duplicate, time, written) SELECT $1, c.configuration, c.host, c.instance, c.address, \
             c.connected, c.duplicate, c.time, {SERVER_NOW} \
             FROM json_to_recordset(CAST($2 AS JSON)) AS c (configuration TEXT, host TEXT, \
             instance TEXT, address TEXT, connected BOOLEAN, duplicate BOOLEAN, time BIGINT) \
             ON CONFLICT (registry, configuration, host) DO UPDATE SET \
             instance = EXCLUDED.instance, address = EXCLUDED.address, \
             connected = EXCLUDED.connected, duplicate = EXCLUDED.duplicate, \
             time = EXCLUDED.time, written = EXCLUDED.written"
        );
        for rows in rows.chunks(BATCH) {
            let written = query(sqlx::AssertSqlSafe(sql.clone())).bind(self.session_id());
            single_statement::execute(server, written.bind(json(rows))).await?;
        }
        Ok(())
    }

    /// Writes polls. A later poll replaces an earlier one of the same agent, whichever registry
    /// writes it.
    pub async fn write_polls(&self, rows: &[PollRow]) -> Result<()> {
        let Some(server) = self.database.server() else { return Ok(()) };
        // Two registries may write rows of the same agents. In one order, they do not block each
        // other.
        let sql = format!(
            "INSERT INTO polls (configuration, key, address, time, fetched, written) \
             SELECT c.configuration, c.key, c.address, c.time, c.fetched, {SERVER_NOW} \
             FROM json_to_recordset(CAST($1 AS JSON)) AS c (configuration TEXT, key TEXT, \
             address TEXT, time BIGINT, fetched BIGINT) ORDER BY 1, 2, 3 \
             ON CONFLICT (configuration, key, address) DO UPDATE SET \
             time = GREATEST(polls.time, EXCLUDED.time), \
             fetched = GREATEST(polls.fetched, EXCLUDED.fetched), written = EXCLUDED.written"
        );
        for rows in rows.chunks(BATCH) {
            let written = query(sqlx::AssertSqlSafe(sql.clone()));
            single_statement::execute(server, written.bind(json(rows))).await?;
        }
        Ok(())
    }
}

fn json<T: Serialize>(rows: &[T]) -> String {
    serde_json::to_string(rows).unwrap_or_default()
}
