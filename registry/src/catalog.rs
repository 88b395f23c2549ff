//! The catalogue: which components, versions and configurations exist. No other code uses the
//! database. Each verb is one transaction, and a change is on disk when its function returns.
//!
//! One connection writes. The other connections only read, and they never wait for the writer: a
//! read transaction sees the changes that were committed before the transaction began. Long reads
//! use separate connections, so that short reads never wait for long reads.
//!
//! ```text
//! rows       blob_rows  versions  pins  configuration_rows  uses  notes  audit
//! above      replacing, configurations, earlier_state       what configurations consist of
//!            image_layers                                   what blobs of images were made from
//!            references, retention                          references to blobs; deletions
//!            configuration_heads                            current states, for lists
//!            state_pages, configuration_pages, component_pages   what a page of a list shows
//!            document_cache                                 configurations as agents read them
//!            bulk_load                                      the catalogue of a Go registry
//!            changes                                        notifies tasks that wait for a change
//! fleet/     hosts, reports of agents, events               see fleet.rs
//! rollouts/  changes that reach the hosts in waves          see rollouts.rs
//! ```

mod audit;
mod blob_rows;
mod bulk_load;
mod changes;
mod component_pages;
mod configuration_heads;
mod configuration_pages;
mod configuration_rows;
mod configurations;
mod counters;
mod counts;
mod database_error;
mod document_cache;
mod earlier_state;
pub mod fleet;
mod image_layers;
mod integrity;
mod largest_versions;
mod migrations;
mod move_histories;
mod notes;
mod pins;
mod references;
mod replacing;
mod retention;
pub mod rollouts;
mod state_pages;
mod thinning;
mod uses;
mod versions;
mod write_tx;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deploy_store::Meter;
use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, Transaction};

pub use audit::{AuditPage, AuditQuery, Audited, Change};
pub use blob_rows::BlobRow;
pub use bulk_load::{Contents, StateToLoad};
pub use changes::{Announced, Changes};
pub use component_pages::{ComponentSummary, VersionsTotal};
pub use configuration_heads::{ConfigurationHead, HEAD_LAYERS};
pub use configuration_pages::{ConfigurationSummary, CurrentLayer};
pub use configuration_rows::State;
pub use counts::{BlobCount, RowCounts};
pub use earlier_state::RolledBack;
pub use image_layers::{Imaged, NewImage, NewLayer};
pub use largest_versions::{ComponentSpace, Space, VersionSpace};
pub use references::{Need, Needs, Reference, Versions};
pub use replacing::not_whole;
pub use state_pages::{ListedState, StatePage, StateRollout};
pub use thinning::Thinned;

use self::database_error::{bad_row, damaged, not_opened, unusable};
use self::document_cache::DocumentCache;
use self::write_tx::WriteTx;
use crate::error::{Error, Result};

/// How many connections there are for short reads (`READERS`) and for long reads (`SCANNERS`).
const READERS: u32 = 4;
const SCANNERS: u32 = 2;
/// How long a verb waits for a connection. Other verbs hold a connection for milliseconds, but
/// longer if the disk is full or slow.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How many rows the thread of a connection reads ahead. With fewer, the threads of a query that
/// reads a large fleet wait for each other most of the time.
const ROWS_AHEAD: usize = 1000;
/// Largest size of the journal file, in bytes, after its whole contents are in the database.
const LARGEST_JOURNAL: &str = "67108864";

/// The catalogue of one registry.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The only connection that may change the database.
    writer: SqlitePool,
    /// Connections for short reads.
    readers: SqlitePool,
    /// Connections for long reads: lists, gc and verify.
    scanners: SqlitePool,
    documents: Arc<DocumentCache>,
    /// The channels that announce changes to waiting tasks.
    pub changes: Arc<Changes>,
    /// How many states of a configuration, with different trees, stay rollback targets.
    keep_states: usize,
}

impl Catalog {
    /// Opens `catalogue.db` in `dir`, or creates it. A damaged file is not changed. For each
    /// configuration, the newest `keep_states` states with different trees stay rollback targets.
    /// `meter` counts the progress of moving the catalogue of an earlier version.
    pub async fn open(dir: &Path, keep_states: usize, meter: &Meter) -> Result<Self> {
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
        let writer = pool(1).connect_with(options.clone()).await;
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
        let readers = pool(READERS).connect_lazy_with(options.clone());
        let scanners = pool(SCANNERS).connect_lazy_with(options);
        let catalog = Self {
            writer,
            readers,
            scanners,
            documents: Arc::default(),
            changes: Arc::default(),
            keep_states,
        };
        catalog.move_histories(meter).await?;
        catalog.renew_uses(meter).await?;
        Ok(catalog)
    }

    /// Waits for running transactions, and closes the database.
    pub async fn close(&self) {
        // The writer closes last, so that it leaves all data in one file.
        self.readers.close().await;
        self.scanners.close().await;
        self.writer.close().await;
    }

    /// Begins a transaction that may change something.
    async fn write_tx(&self) -> Result<WriteTx> {
        let transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let (documents, changes) = (Arc::clone(&self.documents), Arc::clone(&self.changes));
        Ok(WriteTx::new(transaction, documents, changes, self.keep_states))
    }

    /// Begins a short transaction that only reads.
    async fn read_tx(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }

    /// Begins a transaction that only reads, and may take a long time.
    async fn scan_tx(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.scanners.begin().await?)
    }
}

/// The settings of a pool with `connections` connections.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(LONGEST_WAIT)
        // Connections to a file do not become stale. The sqlx task that looks for stale connections
        // may spin forever (sqlx issue 3645). These two settings prevent that task.
        .idle_timeout(None)
        .max_lifetime(None)
        // If SQLite ends a transaction on its own, as on a full disk, sqlx still counts the
        // transaction as open. The connection would then refuse all further transactions, so the
        // pool discards the connection.
        .before_acquire(|connection, _| {
            Box::pin(async move { Ok(!connection.is_in_transaction()) })
        })
}

/// Parses the text of a column. An invalid text means that the catalogue is damaged.
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

    async fn open(dir: &Path) -> Catalog {
        Catalog::open(dir, 2, &Meter::default()).await.unwrap()
    }

    fn change() -> Change {
        Change {
            user: "me".into(),
            key: "test".into(),
            address: "here".into(),
            command: "test".into(),
            now: Timestamp::now(),
            overrides: false,
            rolling: deploy_wire::command::Rolling::default(),
        }
    }

    /// Adds version `version` of `code`, and makes it the layer of configuration `p`.
    async fn deploy(catalog: &Catalog, version: &str) {
        let (component, name) = ("code".parse().unwrap(), "p".parse().unwrap());
        let digest = deploy_store::Digest::of(version.as_bytes());
        let version = version.parse().unwrap();
        catalog.add_version(&component, &version, digest, 2, &change()).await.unwrap();
        let layers = [(component, version)];
        catalog.add_configuration(&name, &layers, true, &change()).await.unwrap();
    }

    #[tokio::test]
    async fn pools_have_no_maintenance_task() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        for pool in [&catalog.writer, &catalog.readers, &catalog.scanners] {
            let options = pool.options();
            assert_eq!(options.get_idle_timeout(), None);
            assert_eq!(options.get_max_lifetime(), None);
            assert_eq!(options.get_min_connections(), 0);
        }
        catalog.close().await;
    }

    #[tokio::test]
    async fn page_of_the_trail_ends_and_filters() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        let line = |command: &str, user: &str| Change {
            command: command.to_owned(),
            user: user.to_owned(),
            ..change()
        };
        for (command, user) in [
            ("put -name=code -version=v1", "anna"),
            ("putty -name=\"code\"", "ben"),
            ("put -layer=code:v2", "ben"),
        ] {
            catalog.audit_change(&line(command, user), 0, "").await.unwrap();
        }
        let numbers = |page: AuditPage| -> (Vec<u64>, Option<u64>) {
            (page.entries.iter().map(|entry| entry.number).collect(), page.older)
        };
        let all = AuditQuery::default();
        let page = async |query: &AuditQuery, limit| {
            numbers(catalog.audit_page(query, limit).await.unwrap())
        };
        assert_eq!(page(&all, 2).await, (vec![3, 2], Some(2)));
        let rest = AuditQuery { before: Some(2), ..AuditQuery::default() };
        assert_eq!(page(&rest, 2).await, (vec![1], None));
        let who = AuditQuery { who: "ben".to_owned(), ..AuditQuery::default() };
        assert_eq!(page(&who, 9).await.0, [3, 2]);
        let key = AuditQuery { who: "tes".to_owned(), ..AuditQuery::default() };
        assert_eq!(page(&key, 9).await.0, [3, 2, 1]);
        let verb = AuditQuery { verb: "put".to_owned(), ..AuditQuery::default() };
        assert_eq!(page(&verb, 9).await.0, [3, 1]);
        let name = AuditQuery { name: "code".to_owned(), ..AuditQuery::default() };
        assert_eq!(page(&name, 9).await.0, [3, 2, 1]);
        let now = AuditQuery { since: Some(Timestamp::MAX), ..AuditQuery::default() };
        assert_eq!(page(&now, 9).await, (vec![], None));
        catalog.close().await;
    }

    #[tokio::test]
    async fn space_counts_a_shared_blob_once() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        deploy(&catalog, "v1").await;
        let component = "other".parse().unwrap();
        for (version, digest) in [("a", "v1"), ("b", "free")] {
            let digest = deploy_store::Digest::of(digest.as_bytes());
            let version = version.parse().unwrap();
            catalog.add_version(&component, &version, digest, 2, &change()).await.unwrap();
        }
        let space = catalog.space(1, 9).await.unwrap();
        assert_eq!((space.all.blobs, space.all.bytes), (2, 4));
        let components: Vec<_> =
            space.components.iter().map(|one| (&*one.component, one.blobs.bytes)).collect();
        assert_eq!(components, [("other", 4)]);
        let versions: Vec<_> =
            space.versions.iter().map(|one| (&*one.version, one.needed)).collect();
        assert_eq!(versions, [("b", false), ("a", true)]);
        catalog.close().await;
    }

    #[tokio::test]
    async fn cached_configuration_needs_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        deploy(&catalog, "v1").await;
        let name = "p".parse().unwrap();
        let json = catalog.configuration_json(&name).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..READERS {
            all.push(catalog.readers.acquire().await.unwrap());
        }
        assert_eq!(catalog.configuration_json(&name).await.unwrap(), json);
        drop(all);
        catalog.delete_configuration(&name, &change()).await.unwrap();
        assert_eq!(catalog.configuration_json(&name).await.unwrap(), None);
        catalog.close().await;
    }

    #[tokio::test]
    async fn readers_wait_neither_for_a_writer_nor_for_a_long_reader() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        deploy(&catalog, "v1").await;
        let name = "p".parse().unwrap();
        let mut writing = catalog.write_tx().await.unwrap();
        writing.changes(&name);
        let mut long = Vec::new();
        for _ in 0..SCANNERS {
            let mut scan = catalog.scan_tx().await.unwrap();
            sqlx::query("SELECT 1 FROM states").fetch_all(&mut *scan).await.unwrap();
            long.push(scan);
        }
        assert!(catalog.configuration_json(&name).await.unwrap().is_some());
        assert_eq!(catalog.history(&name, None, 9).await.unwrap().len(), 1);
        writing.rollback().await.unwrap();
        // A writer does not wait for readers either.
        deploy(&catalog, "v2").await;
        assert_eq!(catalog.history(&name, None, 9).await.unwrap().len(), 2);
        drop(long);
        catalog.close().await;
    }

    /// Readers and a writer run at the same time. A reader's document always includes every change
    /// that was complete when the reader asked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn document_is_never_older_than_a_complete_change() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        deploy(&catalog, "v1000").await;
        let complete = Arc::new(AtomicU64::new(1000));
        let reader = |catalog: Catalog, complete: Arc<AtomicU64>| async move {
            let name = "p".parse().unwrap();
            let mut seen = 0_u64;
            while complete.load(Ordering::SeqCst) < 1200 {
                let least = complete.load(Ordering::SeqCst);
                let json = catalog.configuration_json(&name).await.unwrap().unwrap();
                let text = String::from_utf8(json.to_vec()).unwrap();
                let (_, rest) = text.split_once("\"v1").unwrap();
                let version = 1000 + rest[..3].parse::<u64>().unwrap();
                assert!(version >= least, "{version} after {least}");
                seen += 1;
                // If the document comes from memory, the loop would never yield without this line.
                tokio::task::yield_now().await;
            }
            seen
        };
        let readers: Vec<_> =
            (0..4).map(|_| tokio::spawn(reader(catalog.clone(), Arc::clone(&complete)))).collect();
        for version in 1001..=1200 {
            deploy(&catalog, &format!("v{version}")).await;
            complete.store(version, Ordering::SeqCst);
        }
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
        catalog.close().await;
    }
}
