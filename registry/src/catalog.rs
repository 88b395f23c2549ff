//! The catalogue: which components, versions and configurations exist. No other code uses the
//! database. Each verb is one transaction, and a change is on disk when its function returns.
//!
//! ```text
//! rows       blob_rows  versions  pins  configuration_rows  notes  audit
//! above      replacing, configurations, earlier_state       what configurations consist of
//!            image_layers                                   what blobs of images were made from
//!            references, retention                          what refers to what; what is deleted
//!            document_cache                                 configurations as agents read them
//!            bulk_load                                      the catalogue of a Go registry
//! ```

mod audit;
mod blob_rows;
mod bulk_load;
mod configuration_rows;
mod configurations;
mod counts;
mod database_error;
mod document_cache;
mod earlier_state;
mod image_layers;
mod integrity;
mod migrations;
mod notes;
mod pins;
mod references;
mod replacing;
mod retention;
mod versions;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, Transaction};

pub use audit::{Audited, Change};
pub use blob_rows::BlobRow;
pub use bulk_load::{Contents, StateToLoad};
pub use configuration_rows::State;
pub use counts::{BlobCount, RowCounts};
pub use earlier_state::RolledBack;
pub use image_layers::{Imaged, NewImage, NewLayer};
pub use references::{Reference, References, Versions};
pub use replacing::not_whole;

use self::database_error::{bad_row, damaged, not_opened, unusable};
use self::document_cache::DocumentCache;
use crate::error::{Error, Result};

/// The catalogue of one registry.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
    documents: Arc<DocumentCache>,
    /// States of a configuration with different trees that stay targets of a rollback.
    keep_states: usize,
}

impl Catalog {
    /// Opens `catalogue.db` in `dir`, or creates it. A damaged file is left alone. Of each
    /// configuration the newest `keep_states` different states stay targets of a rollback.
    pub async fn open(dir: &Path, keep_states: usize) -> Result<Self> {
        let path = dir.join("catalogue.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        // One connection: verbs are short, writers would only wait for each other, and the
        // document cache relies on it.
        // If SQLite ends a transaction by itself, as on a full disk, sqlx still counts it as open.
        // Such a connection would refuse all others, so it is not used again.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // Connections to a file do not become stale. The task that looks for stale ones may
            // spin for ever (sqlx issue 3645). Without these two settings there is no such task.
            .idle_timeout(None)
            .max_lifetime(None)
            .before_acquire(|connection, _| {
                Box::pin(async move { Ok(!connection.is_in_transaction()) })
            })
            .connect_with(options)
            .await;
        let pool = pool.map_err(|err| not_opened(&path, &err))?;
        // Checked before anything is written.
        let check = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&pool).await;
        let problem: String = check.map_err(|err| not_opened(&path, &err))?;
        if problem != "ok" {
            return Err(damaged(&path, &problem));
        }
        let migrated = migrations::migrator().run(&pool).await;
        migrated.map_err(|err| unusable(&path, &err.to_string()))?;
        Ok(Self { pool, documents: Arc::default(), keep_states })
    }

    /// Waits for running transactions and closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Begins a transaction that may change something.
    async fn write_tx(&self) -> Result<Transaction<'static, Sqlite>> {
        let transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        self.documents.forget();
        Ok(transaction)
    }

    /// Begins a transaction that changes nothing.
    async fn read_tx(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.pool.begin().await?)
    }
}

/// Parses a column. A row that does not hold what it must is damage.
fn column<T: FromStr<Err = deploy_store::Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|err| bad_row(&err))
}

/// Nanoseconds since 1970, as the database stores them.
fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pool_has_no_maintenance_task() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path(), 2).await.unwrap();
        let options = catalog.pool.options();
        assert_eq!(options.get_idle_timeout(), None);
        assert_eq!(options.get_max_lifetime(), None);
        assert_eq!(options.get_min_connections(), 0);
        catalog.close().await;
    }

    #[tokio::test]
    async fn cached_configuration_needs_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path(), 2).await.unwrap();
        let change = Change {
            user: "me".into(),
            key: "test".into(),
            address: "here".into(),
            command: "test".into(),
            now: Timestamp::now(),
        };
        let name = "p".parse().unwrap();
        let (component, version) = ("code".parse().unwrap(), "v1".parse().unwrap());
        let digest = deploy_store::Digest::of(b"v1");
        catalog.add_version(&component, &version, digest, 2, &change).await.unwrap();
        catalog.add_configuration(&name, &[(component, version)], false, &change).await.unwrap();
        let json = catalog.configuration_json(&name).await.unwrap();
        // Every other reader would wait for this connection.
        let connection = catalog.pool.acquire().await.unwrap();
        assert_eq!(catalog.configuration_json(&name).await.unwrap(), json);
        drop(connection);
        catalog.delete_configuration(&name, &change).await.unwrap();
        assert_eq!(catalog.configuration_json(&name).await.unwrap(), None);
        catalog.close().await;
    }
}
