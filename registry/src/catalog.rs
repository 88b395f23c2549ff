//! The catalogue records which components, versions and configurations exist. No other code uses
//! the database. Each change that an operator makes is one transaction, but gc uses several
//! transactions. When a function that makes a change returns, the change is on disk. A transaction
//! that only reads sees all changes that were committed before the transaction began. It never
//! waits for a transaction that writes.
//!
//! ```text
//! database   tx  packed  write_tx  owner_lock  server_watch                SQLite or PostgreSQL
//! migrations  integrity  database_error  single_statement
//! sharing    registry_rows  heartbeat  change_notices  listener  positions  contacts
//!                                                           several registries on one catalogue
//! rows       blob_rows  versions  pins  configuration_rows  uses  counters  notes  audit
//! on top     replacing, configurations, earlier_state       changes of configurations; rollbacks
//!            image_layers                                   origins of image blobs
//!            references, retention, thinning                references to blobs; deletions
//!            object_state, object_rows, object_writers, object_steps   objects in a bucket
//!            configuration_heads, counts, largest_versions  current states and totals
//!            state_pages, configuration_pages, component_pages   pages of lists
//!            document_cache                                 configurations as agents read them
//!            bulk_load, move_histories                      import; move from earlier versions
//!            table_list, table_statements, table_sums, copy_tables   copies of a whole catalogue
//!            change_signals                                 notifies tasks that wait for a change
//! fleet/     hosts, reports of agents, events               see fleet.rs
//! rollouts/  changes that reach the hosts in waves          see rollouts.rs
//! ```

mod audit;
mod blob_rows;
mod bulk_load;
mod change_notices;
mod change_signals;
mod component_pages;
mod configuration_heads;
mod configuration_pages;
mod configuration_rows;
mod configurations;
mod contacts;
mod copy_tables;
mod counters;
mod counts;
mod database;
mod database_error;
mod document_cache;
mod earlier_state;
pub mod fleet;
mod heartbeat;
mod image_layers;
mod integrity;
mod largest_versions;
mod listener;
mod migrations;
mod move_histories;
mod notes;
mod object_rows;
mod object_state;
mod object_steps;
mod object_writers;
mod owner_lock;
mod packed;
mod pins;
mod positions;
mod references;
mod registry_rows;
mod replacing;
mod retention;
pub mod rollouts;
mod server_watch;
mod sharing;
mod single_statement;
mod state_pages;
mod table_list;
mod table_statements;
mod table_sums;
mod thinning;
mod tx;
mod uses;
mod versions;
mod write_tx;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deploy_store::Meter;
use jiff::Timestamp;
use tokio::sync::broadcast;

pub use audit::{AuditPage, AuditQuery, Audited, Change};
pub use blob_rows::BlobRow;
pub use bulk_load::{Contents, StateToLoad};
pub use change_notices::Notice;
pub use change_signals::{Announced, Changes};
pub use component_pages::{ComponentSummary, VersionsTotal};
pub use configuration_heads::{ConfigurationHead, HEAD_LAYERS};
pub use configuration_pages::{ConfigurationSummary, CurrentLayer};
pub use configuration_rows::State;
pub use contacts::{ContactRow, PollRow};
pub use counts::{BlobCount, RowCounts};
pub use earlier_state::RolledBack;
pub use image_layers::{Imaged, NewImage, NewLayer};
pub use largest_versions::{ComponentSpace, Space, VersionSpace};
pub use object_rows::ObjectRow;
pub(crate) use object_rows::not_uploaded;
pub use object_state::{ObjectState, ObjectTimes};
pub use object_steps::NewObject;
pub use positions::Position;
pub use references::{Need, Needs, Reference, Versions};
pub use registry_rows::{Registries, RegistryRow};
pub use replacing::not_whole;
pub use sharing::Described;
pub use state_pages::{ListedState, StatePage, StateRollout};
pub use table_sums::{TableSum, differences};
pub use thinning::Thinned;

use self::database::Database;
use self::database_error::bad_row;
use self::document_cache::DocumentCache;
use self::owner_lock::Tenancy;
use self::sharing::Sharing;
use self::tx::{Query, Tx};
use self::write_tx::WriteTx;
use crate::error::{Error, Result};

/// The name of the note that holds the id of the registry that uses this catalogue. Only a
/// catalogue on a database server has this note.
const OWNER: &str = "owner";
/// The contents of the note [`OWNER`] if several registries may use the catalogue. No id of a
/// registry is like this.
const SHARED: &str = "shared";
/// The default of `-keep-states`.
const KEEP_STATES: usize = 5;

/// The catalogue of one registry.
#[derive(Debug, Clone)]
pub struct Catalog {
    database: Database,
    /// A random id of this open catalogue. A registry that takes over a catalogue on a server
    /// writes its own id to the note [`OWNER`].
    own: String,
    /// `None` if the catalogue has only one registry.
    sharing: Option<Arc<Sharing>>,
    documents: Arc<DocumentCache>,
    /// The channels that announce changes to waiting tasks.
    pub changes: Arc<Changes>,
    /// How many states with different trees stay rollback targets, for each configuration.
    keep_states: usize,
    /// Whether the blobs are objects in a bucket. Each reference to a blob then needs an object.
    has_objects: bool,
}

impl Catalog {
    /// Opens `catalogue.db` in `dir`, or creates it. If the check of the file finds damage, the
    /// function fails and does not change the file. For each configuration, the newest
    /// `keep_states` states with different trees stay rollback targets. `meter` counts the progress
    /// if the function has to convert the states of a catalogue that an earlier version wrote, or
    /// to rebuild the table `uses`.
    pub async fn open(dir: &Path, keep_states: usize, meter: &Meter) -> Result<Self> {
        let database = Database::open_file(dir).await?;
        Self::with(database, Tenancy::Alone, keep_states, meter).await
    }

    /// Opens the catalogue on the database server at `url`, and creates missing tables.
    /// `keep_states` and `meter` are as in [`Catalog::open`].
    pub async fn open_server(url: &str, keep_states: usize, meter: &Meter) -> Result<Self> {
        let database = Database::open_server(url, Tenancy::Alone).await?;
        Self::with(database, Tenancy::Alone, keep_states, meter).await
    }

    /// Like [`Catalog::open_server`], for a registry whose blobs are in a bucket. Several registries
    /// may use the catalogue at the same time.
    pub async fn open_shared(url: &str, keep_states: usize, meter: &Meter) -> Result<Self> {
        let database = Database::open_server(url, Tenancy::Shared).await?;
        Self::with(database, Tenancy::Shared, keep_states, meter).await
    }

    /// Opens the catalogue of a registry that migrates: on the database server at `url`, or else in
    /// `dir`. The number of rollback targets stays as it is. Fails if a registry uses the catalogue
    /// on the server.
    pub async fn open_to_migrate(dir: &Path, url: Option<&str>, meter: &Meter) -> Result<Self> {
        let database = match url {
            Some(url) => Database::open_server(url, Tenancy::Alone).await?,
            None => Database::open_file(dir).await?,
        };
        // The lock does not keep a registry away that has just lost its connection.
        if let Err(err) = registry_rows::require_none(&mut database.begin_read().await?).await {
            database.close().await;
            return Err(err);
        }
        let keep_states: i64 =
            tx::query_scalar("SELECT value FROM counters WHERE name = 'keep_states'")
                .fetch_one(&mut database.begin_read().await?)
                .await?;
        // The number is negative in a new catalogue, and after an interrupted change.
        let keep_states = usize::try_from(keep_states).unwrap_or(KEEP_STATES);
        Self::with(database, Tenancy::Alone, keep_states, meter).await
    }

    async fn with(
        database: Database,
        tenancy: Tenancy,
        keep_states: usize,
        meter: &Meter,
    ) -> Result<Self> {
        let mut catalog = Self {
            database,
            own: random_id()?,
            sharing: None,
            documents: Arc::default(),
            changes: Arc::default(),
            keep_states,
            has_objects: false,
        };
        if catalog.database.is_on_server() {
            let mut transaction = catalog.database.begin_write().await?;
            let owner = if tenancy == Tenancy::Shared { SHARED } else { &catalog.own };
            notes::put(OWNER, &owner).execute(&mut transaction).await?;
            transaction.commit().await?;
        }
        if tenancy == Tenancy::Shared {
            let (database, changes) = (&catalog.database, &catalog.changes);
            catalog.sharing = Sharing::of(database, &catalog.own, changes).await?;
        }
        if let Some(sharing) = &catalog.sharing {
            heartbeat::begin(sharing).await?;
            listener::begin(sharing).await?;
        }
        catalog.move_histories(meter).await?;
        catalog.renew_uses(meter).await?;
        Ok(catalog)
    }

    /// The same catalogue, for a registry whose blobs are objects in a bucket.
    #[must_use]
    pub fn with_objects(self) -> Self {
        Self { has_objects: true, ..self }
    }

    /// The random id of this open catalogue.
    pub fn session_id(&self) -> &str {
        &self.own
    }

    /// Whether the catalogue is on a database server.
    pub fn is_on_server(&self) -> bool {
        self.database.is_on_server()
    }

    /// A receiver of the changes that other registries make; `None` if there are no others.
    pub fn notices(&self) -> Option<broadcast::Receiver<Arc<Notice>>> {
        self.sharing.as_ref().map(|sharing| sharing.notices())
    }

    /// Whether [`Catalog::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.database.is_closed()
    }

    /// Waits for running transactions, and closes the database.
    pub async fn close(&self) {
        if let Some(sharing) = &self.sharing
            && let Err(err) = heartbeat::stop(sharing).await
        {
            tracing::debug!("the other registries notice only later that this one ends: {err}");
        }
        self.database.close().await;
    }

    /// Begins a transaction that may change something, and that announces the change to waiting
    /// tasks.
    async fn write_tx(&self) -> Result<WriteTx> {
        Ok(WriteTx::new(self.begin_write().await?, self))
    }

    /// Begins a transaction that may change something, but announces no change. On a server, the
    /// function fails if another registry took over the catalogue while this registry had no
    /// connection to the server.
    async fn begin_write(&self) -> Result<Tx> {
        let mut transaction = self.database.begin_write().await?;
        if self.database.is_on_server() {
            let owner: Option<String> = tx::query_scalar("SELECT value FROM notes WHERE name = $1")
                .bind(OWNER)
                .fetch_optional(&mut transaction)
                .await?;
            let owner = owner.and_then(|text| serde_json::from_str::<String>(&text).ok());
            let expected = if self.is_shared() { SHARED } else { &self.own };
            if owner.as_deref() != Some(expected) {
                let why = "another registry uses this catalogue now; stop this registry";
                return Err(Error::Conflict(format!("catalogue: {why}; nothing was changed")));
            }
        }
        Ok(transaction)
    }

    /// Runs one statement, and returns the number of rows that it changed. The statement must
    /// change nothing that a task waits for.
    async fn write_one(&self, statement: Query<()>) -> Result<u64> {
        let mut transaction = self.begin_write().await?;
        let changed = statement.execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// Begins a short transaction that only reads.
    async fn read_tx(&self) -> Result<Tx> {
        self.database.begin_read().await
    }

    /// Begins a transaction that only reads, and may take a long time.
    async fn scan_tx(&self) -> Result<Tx> {
        self.database.begin_scan().await
    }
}

/// A random text of 16 hex digits.
fn random_id() -> Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| Error::Failed(format!("get random bytes: {err}")))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Parses the text of a column. An invalid text means that the catalogue is damaged.
fn column<T: FromStr<Err = deploy_store::Error>>(text: &str) -> Result<T> {
    text.parse().map_err(|err| bad_row(&err))
}

/// Nanoseconds since 1970, as the database stores them.
fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn nanoseconds_of(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) async fn open(dir: &Path) -> Catalog {
        open_keeping(dir, 2).await
    }

    /// Opens the catalogue of `dir`. `DEPLOY_TEST_POSTGRES` decides where it is.
    pub(super) async fn open_keeping(dir: &Path, states: usize) -> Catalog {
        let meter = Meter::default();
        match deploy_testing::catalogue(dir) {
            Some(url) => Catalog::open_server(&url, states, &meter).await,
            None => Catalog::open(dir, states, &meter).await,
        }
        .unwrap()
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

    /// Adds a version of the component `code`, and makes it the only layer of the configuration
    /// `p`.
    pub(super) async fn deploy(catalog: &Catalog, version: &str) {
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
        let catalog = Catalog::open(dir.path(), 2, &Meter::default()).await.unwrap();
        let Database::Sqlite { writer, readers, scanners } = &catalog.database else {
            unreachable!("the catalogue is a file");
        };
        for pool in [writer, readers, scanners] {
            let options = pool.options();
            assert_eq!(options.get_idle_timeout(), None);
            assert_eq!(options.get_max_lifetime(), None);
            assert_eq!(options.get_min_connections(), 0);
        }
        catalog.close().await;
    }

    #[tokio::test]
    async fn audit_page_is_limited_and_filtered() {
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
        for _ in 0..database::READERS {
            all.push(catalog.read_tx().await.unwrap());
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
        for _ in 0..database::SCANNERS {
            let mut scan = catalog.scan_tx().await.unwrap();
            tx::query_as::<(i64,)>("SELECT 1 FROM states").fetch_all(&mut scan).await.unwrap();
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
                // Without this line, the loop would never yield while documents come from memory.
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
