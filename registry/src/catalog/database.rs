//! Opens the database of a catalogue: an `SQLite` file in the registry's directory, or a database
//! on a `PostgreSQL` server. If the blobs are in the directory of a registry, only this registry uses
//! the catalogue.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::database_error::{damaged, no_server, not_opened, unusable};
use super::owner_lock::Tenancy;
use super::server_watch::ServerWatch;
use super::tx::{ANSWER_WAIT, Patience, SERVER_WAIT, Tx, answered, query};
use super::{Result, integrity, migrations};

/// Maximum number of connections for short reads (`READERS`) and for long reads (`SCANNERS`).
pub(super) const READERS: u32 = 4;
pub(super) const SCANNERS: u32 = 2;
/// Maximum number of connections to a server for transactions that change something. One of these
/// connections holds the lock that [`WRITE_LOCK`] takes, and the others wait for this lock.
const WRITERS: u32 = 4;
/// Maximum number of connections to a server for single statements, such as the one of each poll.
const LOOKUPS: u32 = 8;
/// How long a verb waits for a free connection to a file. Another verb usually holds a connection
/// for milliseconds, but much longer on a full or slow disk.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a statement may take on a server: [`SCAN_LIMIT`] in a long read, and [`LIMIT`] in any
/// other transaction. The time that the statement waits for a lock counts, too.
const LIMIT: Duration = Duration::from_secs(30);
const SCAN_LIMIT: Duration = Duration::from_secs(300);
/// How many rows the thread of a connection reads ahead. With fewer rows, a query that reads a
/// large fleet is slow: the reading thread and the thread of the verb then wait for each other most
/// of the time.
const ROWS_AHEAD: usize = 1000;
/// The size, in bytes, to which `SQLite` shortens a longer journal file after it has copied the
/// whole journal to the database file.
const LARGEST_JOURNAL: &str = "67108864";
/// The size of the page cache of a connection for long reads, in the form that `SQLite` expects: in
/// KiB, and negative. With the default of 2 MiB, a join of 100,000 versions with their blobs read
/// most pages of the file ten times.
const SCANNER_CACHE: &str = "-16384";
/// The query for the lock that each transaction takes before it changes something. Each schema of a
/// database may have a catalogue of its own, and each catalogue has its own lock.
const WRITE_LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtext('deploy-registry ' || current_schema()))";
/// The statement that begins a transaction that changes something. With READ COMMITTED, the
/// transaction sees all changes that were committed before it got the lock. With REPEATABLE READ,
/// the transaction would see the rows as they were before it waited for the lock.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// The settings of a connection to a server. With these settings, the server ends an idle
/// transaction, so that a registry that hangs does not keep the lock.
const SETTINGS: [(&str, &str); 5] = [
    ("lock_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];

/// The connections of a catalogue to its database.
#[derive(Debug, Clone)]
pub(super) enum Database {
    /// A file. One connection writes. The other connections only read, and they never wait for the
    /// writer. Long reads use separate connections, so that short reads never wait for long reads.
    Sqlite { writer: SqlitePool, readers: SqlitePool, scanners: SqlitePool },
    /// A server. The advisory lock that [`WRITE_LOCK`] takes ensures that only one transaction
    /// writes at a time.
    Postgres(Box<Server>),
}

/// The connections to a server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    writers: PgPool,
    readers: PgPool,
    scanners: PgPool,
    lookups: PgPool,
    listeners: PgPool,
    watch: Arc<ServerWatch>,
}

impl Server {
    /// The connections for single statements.
    pub(super) fn lookups(&self) -> &PgPool {
        &self.lookups
    }

    /// How long the registry waits for the answer to a single statement.
    pub(super) fn patience(&self) -> Patience {
        self.watch.patience(LIMIT)
    }

    /// Whether [`Database::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        // These connections are closed first.
        self.readers.is_closed()
    }

    /// The connections that wait for notifications: one, or two while the first one ends.
    pub(super) fn listeners(&self) -> &PgPool {
        &self.listeners
    }
}

impl Database {
    /// Opens the file `catalogue.db` in `dir`, or creates the file. If the check of the file finds
    /// damage, the function fails and does not change the file.
    pub(super) async fn open_file(dir: &Path) -> Result<Self> {
        let path = dir.join("catalogue.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .row_buffer_size(ROWS_AHEAD)
            .pragma("journal_size_limit", LARGEST_JOURNAL);
        let writer = file_pool(1).connect_with(options.clone()).await;
        let writer = writer.map_err(|err| not_opened(&path, &err))?;
        // The check must come before the first write.
        if let Some(problem) =
            integrity::at_start(&writer).await.map_err(|err| not_opened(&path, &err))?
        {
            return Err(damaged(&path, &problem));
        }
        let migrated = migrations::migrator().run(&writer).await;
        migrated.map_err(|err| unusable(&path, &err.to_string()))?;
        let options = options.create_if_missing(false).read_only(true);
        let readers = file_pool(READERS).connect_lazy_with(options.clone());
        let options = options.pragma("cache_size", SCANNER_CACHE);
        let scanners = file_pool(SCANNERS).connect_lazy_with(options);
        Ok(Self::Sqlite { writer, readers, scanners })
    }

    /// Opens the database at `url`, and creates missing tables. `url` has the form
    /// `postgres://USER@HOST/DATABASE`.
    pub(super) async fn open_server(url: &str, tenancy: Tenancy) -> Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(|err| no_server(&err))?;
        let options = options.application_name("deploy-registry").options(SETTINGS);
        // A single connection reports why it failed. A pool would only report that it timed out.
        let watch = ServerWatch::begin(&options, tenancy).await?;
        let writers = server_pool(WRITERS).connect_with(limited(&options, LIMIT)).await;
        let writers = writers.map_err(|err| no_server(&err))?;
        migrations::server_migrator().run(&writers).await.map_err(|err| no_server(&err))?;
        let readers = server_pool(READERS).connect_lazy_with(limited(&options, LIMIT));
        let scanners = server_pool(SCANNERS).connect_lazy_with(limited(&options, SCAN_LIMIT));
        // The test before each use would double the time of a single statement.
        let lookups = server_pool(LOOKUPS)
            .test_before_acquire(false)
            .connect_lazy_with(limited(&options, LIMIT));
        let listeners = server_pool(2).connect_lazy_with(options);
        let server = Server { writers, readers, scanners, lookups, listeners, watch };
        Ok(Self::Postgres(Box::new(server)))
    }

    /// Whether the database is on a server. Only in this case, another registry may take over the
    /// catalogue.
    pub(super) fn is_on_server(&self) -> bool {
        self.server().is_some()
    }

    /// The connections to the server, if the database is on a server.
    pub(super) fn server(&self) -> Option<&Server> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres(server) => Some(server),
        }
    }

    /// Whether [`Database::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Sqlite { writer, .. } => writer.is_closed(),
            Self::Postgres(server) => server.is_closed(),
        }
    }

    /// Waits for running transactions, and closes the connections.
    pub(super) async fn close(&self) {
        match self {
            // The last connection that closes copies the journal to the database file. Only the
            // writer can write to that file, so the writer closes last.
            Self::Sqlite { writer, readers, scanners } => {
                readers.close().await;
                scanners.close().await;
                writer.close().await;
            }
            Self::Postgres(server) => {
                server.readers.close().await;
                server.scanners.close().await;
                server.lookups.close().await;
                server.listeners.close().await;
                server.writers.close().await;
                server.watch.end().await;
            }
        }
    }

    /// Begins a transaction that may change something. No other transaction changes anything before
    /// this transaction ends. The futures of the library sqlx are large, so this function and the
    /// functions below box them.
    pub(super) async fn begin_write(&self) -> Result<Tx> {
        Ok(match self {
            Self::Sqlite { writer, .. } => {
                Tx::Sqlite(Box::pin(writer.begin_with("BEGIN IMMEDIATE")).await?)
            }
            Self::Postgres(server) => {
                let patience = server.patience();
                let mut tx = begin_on_server(&server.writers, BEGIN_WRITE, patience).await?;
                query(WRITE_LOCK).execute(&mut tx).await?;
                tx
            }
        })
    }

    /// Begins a short transaction that only reads.
    pub(super) async fn begin_read(&self) -> Result<Tx> {
        match self {
            Self::Sqlite { readers, .. } => begin_in_file(readers).await,
            Self::Postgres(server) => {
                begin_on_server(&server.readers, BEGIN_READ, server.patience()).await
            }
        }
    }

    /// Begins a transaction that only reads, and may take a long time.
    pub(super) async fn begin_scan(&self) -> Result<Tx> {
        match self {
            Self::Sqlite { scanners, .. } => begin_in_file(scanners).await,
            Self::Postgres(server) => {
                let patience = server.watch.patience(SCAN_LIMIT);
                begin_on_server(&server.scanners, BEGIN_READ, patience).await
            }
        }
    }
}

async fn begin_in_file(readers: &SqlitePool) -> Result<Tx> {
    Ok(Tx::Sqlite(Box::pin(readers.begin()).await?))
}

async fn begin_on_server(pool: &PgPool, begin: &'static str, mut patience: Patience) -> Result<Tx> {
    let transaction = patience.answer(Box::pin(pool.begin_with(begin))).await?;
    Ok(Tx::Postgres(transaction, patience))
}

/// The options of a connection on which the server ends each statement after `limit`.
fn limited(options: &PgConnectOptions, limit: Duration) -> PgConnectOptions {
    options.clone().options([("statement_timeout", limit.as_millis().to_string())])
}

/// The settings of a pool with `connections` connections to a file.
pub(super) fn file_pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(LONGEST_WAIT)
        // Connections to a file do not become stale. The sqlx task that looks for stale connections
        // may spin forever (sqlx issue 3645). With these two settings, sqlx does not start this
        // task.
        .idle_timeout(None)
        .max_lifetime(None)
        // If SQLite ends a transaction on its own, for example on a full disk, sqlx still counts
        // the transaction as open. The connection would then refuse all further transactions, so
        // the pool discards the connection.
        .before_acquire(|connection, _| {
            Box::pin(async move { Ok(!connection.is_in_transaction()) })
        })
}

/// The settings of a pool with `connections` connections to a server. The pool tests a connection
/// before each use, so verbs that begin after a restart of the server do not fail.
fn server_pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(SERVER_WAIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(true)
        // If the server does not answer, the pool would otherwise keep the connection for ever.
        .after_release(|connection, _| {
            Box::pin(async move {
                answered(ANSWER_WAIT, connection.ping()).await?;
                Ok(true)
            })
        })
}
