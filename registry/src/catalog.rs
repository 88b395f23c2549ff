//! The catalogue: which components, versions and configurations there are. It alone
//! knows the database. Every verb is one transaction; a change is on disk when its
//! function returns.

mod audit;
mod blob_rows;
mod bulk_load;
mod configurations;
mod document_cache;
mod earlier_state;
mod image_layers;
mod integrity;
mod pins;
mod references;
mod replacing;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deploy_wire::command::Refusal;
use deploy_wire::exit;
use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, Transaction};

pub use audit::{Audited, Change};
pub use blob_rows::BlobRow;
pub use configurations::State;
pub use earlier_state::RolledBack;
pub use image_layers::{Imaged, NewImage, NewLayer};
pub use references::{Reference, References, Versions};
pub use replacing::not_whole;

use crate::catalog::document_cache::Documents;

/// The catalogue of one registry.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
    documents: Arc<Documents>,
    /// States of a configuration with different trees that stay targets of a rollback.
    keep_states: usize,
}

/// Why the catalogue did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The catalogue says no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The database failed.
    #[error("catalogue: {}; nothing was changed{}", plain(.0), if is_full(.0) { "; gc frees room" } else { "" })]
    Database(#[from] sqlx::Error),
    /// A row does not hold what it must.
    #[error("catalogue: {0}")]
    BadRow(#[from] deploy_store::Error),
    /// The file is no database, or not a whole one.
    #[error("open catalogue {}: it is damaged: {why}; nothing was changed", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The database cannot be opened.
    #[error("open catalogue {}: {why}; nothing was changed", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What `SQLite` says, without the numbers of its errors.
fn plain(err: &sqlx::Error) -> String {
    err.as_database_error().map_or_else(|| err.to_string(), |err| err.message().to_owned())
}

/// Whether the disk is full (`SQLITE_FULL`).
fn is_full(err: &sqlx::Error) -> bool {
    kind(err) == Some(13)
}

/// Whether `SQLite` calls the file damaged (`SQLITE_CORRUPT`) or none of its own
/// (`SQLITE_NOTADB`), see <https://www.sqlite.org/rescode.html>.
fn is_damage(err: &sqlx::Error) -> bool {
    matches!(kind(err), Some(11 | 26))
}

/// The lower byte of the code is the kind, the rest says more of it.
fn kind(err: &sqlx::Error) -> Option<i32> {
    let code = err.as_database_error().and_then(sqlx::error::DatabaseError::code)?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

impl Error {
    /// Whether the database did not come to answer in time.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::PoolTimedOut))
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        match err {
            Error::Refused(refusal) => refusal,
            Error::Damaged { .. } | Error::BadRow(_) => Self::new(exit::CORRUPT, err.to_string()),
            Error::Open { .. } | Error::Database(_) => Self::new(exit::FAILED, err.to_string()),
        }
    }
}

impl Catalog {
    /// Opens, or makes, `catalogue.db` in `dir`. A file that is damaged is left alone. Of
    /// each configuration the newest `keep_states` states that differ stay targets of a
    /// rollback.
    pub async fn open(dir: &Path, keep_states: usize) -> Result<Self> {
        let path = dir.join("catalogue.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        // One connection: verbs are short, writers would only wait for each other, and what is
        // kept of `documents` rests on it.
        // A transaction that SQLite ended by itself, as on a full disk, is not over for sqlx:
        // the connection would refuse all others.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // Connections to a file do not grow stale, and the task that looks for those that do
            // may spin for ever (sqlx issue 3645). Without these two there is no such task.
            .idle_timeout(None)
            .max_lifetime(None)
            .before_acquire(|connection, _| {
                Box::pin(async move { Ok(!connection.is_in_transaction()) })
            })
            .connect_with(options)
            .await;
        let open = |why: String| Error::Open { path: path.clone(), why };
        let damaged = |why: String| Error::Damaged { path: path.clone(), why };
        let failed = |err: sqlx::Error| {
            if is_damage(&err) { damaged(plain(&err)) } else { open(err.to_string()) }
        };
        let pool = pool.map_err(failed)?;
        // Before anything is written.
        let problem: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&pool).await.map_err(failed)?;
        if problem != "ok" {
            return Err(damaged(problem));
        }
        let migrated = sqlx::migrate!("./migrations").run(&pool).await;
        migrated.map_err(|err| open(err.to_string()))?;
        Ok(Self { pool, documents: Arc::default(), keep_states })
    }

    /// Waits for running transactions and closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Begins a transaction that may change something.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        let transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        self.documents.forget();
        Ok(transaction)
    }

    /// Begins a transaction that changes nothing.
    async fn look(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.pool.begin().await?)
    }
}

fn refuse<T>(code: u8, text: String) -> Result<T> {
    Err(Error::Refused(Refusal::new(code, text)))
}

/// Nanoseconds since 1970, as the database has them.
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
    async fn no_task_looks_for_connections_that_grow_stale() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path(), 2).await.unwrap();
        let options = catalog.pool.options();
        assert_eq!(options.get_idle_timeout(), None);
        assert_eq!(options.get_max_lifetime(), None);
        assert_eq!(options.get_min_connections(), 0);
        catalog.close().await;
    }

    #[tokio::test]
    async fn who_asks_for_a_configuration_again_does_not_wait_for_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path(), 2).await.unwrap();
        let change = Change {
            login: "me".into(),
            who: "test".into(),
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
        // Whoever wants to know more than that has to wait for this one.
        let connection = catalog.pool.acquire().await.unwrap();
        assert_eq!(catalog.configuration_json(&name).await.unwrap(), json);
        drop(connection);
        catalog.delete_configuration(&name, &change).await.unwrap();
        assert!(matches!(catalog.configuration_json(&name).await, Err(Error::Refused(_))));
        catalog.close().await;
    }
}
