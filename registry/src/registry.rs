//! The registry: its directory, its blobs and its catalogue. The verbs are in `verbs/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deploy_store::disk::{Dir, Lock};
use deploy_store::{Blobs, Limits, Meter};
use jiff::Timestamp;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Mutex, Semaphore};

use crate::blob_store::BlobStore;
use crate::blocking::blocking;
use crate::bucket::{Bucket, BucketSettings};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::free_space::FreeSpace;
use crate::go_import::{self, StateDb};
use crate::moved;
use crate::own_bucket;
use crate::own_catalogue;
use crate::reserve;
use crate::store_survey::SurveyCache;
use crate::uploads::downloads::ActiveDownloads;
use crate::uploads::open_files::OpenFileQuota;
use crate::uploads::recent::RecentUploads;
use crate::uploads::slots::{Sharing, SlotPool};
use crate::uploads::upload_room::{UploadLimits, UploadRoom};

/// Maximum number of archives that the registry checks at the same time.
const CHECKS: usize = 2;
/// How image imports share their slots. Each import needs memory for the names in its layers.
const IMPORTS: Sharing = Sharing { most: 2, share: 1, reserve: 0, silence: Duration::from_secs(5) };
/// Maximum number of unfinished imports, including imports that wait for their clients.
const MAX_IMPORTS: usize = 32;
/// How many directory lists may be open at the same time. In a registry with 100,000 files, a list
/// takes about 6 MiB of memory.
const LISTS: usize = 64;

/// All files from before this time in the future are leftovers.
const UNBOUND: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of a registry: what it keeps, and its limits.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Largest upload, in bytes.
    pub max_upload: u64,
    /// Maximum number of bytes that one key may have staged.
    pub max_staged: u64,
    /// Limits on archives that become versions.
    pub limits: Limits,
    /// Bytes of the filesystem that uploads leave free.
    pub min_free: u64,
    /// How many of a component's newest versions are kept even if not in use; 0 keeps all.
    pub max_versions: usize,
    /// Number of states of a configuration that stay rollback targets. These states all have
    /// different trees.
    pub keep_states: usize,
    /// Age from which gc removes states and entries of the audit trail, unless a rollback may need
    /// them. `None` keeps them forever.
    pub keep_history: Option<Duration>,
    /// How long the registry keeps an upload that no version uses yet, or a blob that is no longer
    /// needed.
    pub grace: Duration,
    /// A host is retired after this time without a report and without a connection; `None` keeps
    /// all hosts.
    pub retire_after: Option<Duration>,
    /// Whether `addconf` replaces an existing configuration, as in the Go tool.
    pub addconf_replaces: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_upload: 64 << 30,
            max_staged: 128 << 30,
            limits: Limits::STANDARD,
            min_free: 64 << 20,
            max_versions: 10,
            keep_states: 5,
            keep_history: None,
            grace: Duration::from_secs(30 * 60),
            retire_after: None,
            addconf_replaces: false,
        }
    }
}

impl Settings {
    fn upload_limits(&self) -> UploadLimits {
        let Self { max_upload, max_staged, min_free, grace, .. } = *self;
        UploadLimits { max_upload, max_staged, min_free, grace }
    }
}

/// Where a registry keeps its data.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory of the registry.
    pub dir: PathBuf,
    /// The address of the database server that has the catalogue, in the form
    /// `postgres://USER@HOST/NAME`. With `None`, the catalogue is the file `catalogue.db` in the
    /// directory.
    pub catalogue: Option<String>,
    /// The bucket with the blobs. `None`: the blobs are files in the directory.
    pub bucket: Option<BucketSettings>,
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Place {
    fn from(dir: &P) -> Self {
        Self { dir: dir.as_ref().to_owned(), catalogue: None, bucket: None }
    }
}

/// An open registry, which has exclusive use of its data directory. With a catalogue on a database
/// server and a bucket, other registries may use the catalogue and the bucket, too.
#[derive(Debug)]
pub struct Registry {
    blobs: BlobStore,
    /// The catalogue. It is public, because verbs that use no blobs call it directly.
    pub catalog: Catalog,
    /// The settings: what the registry keeps, and its limits.
    pub settings: Settings,
    /// The fleet: connected agents and their reports.
    pub fleet: Arc<Fleet>,
    /// Active downloads.
    pub downloads: Arc<ActiveDownloads>,
    /// The free space over the last day.
    pub free_space: FreeSpace,
    pub(crate) surveys: SurveyCache,
    /// The limits on uploads, which all protocols share.
    pub uploads: Arc<UploadRoom>,
    pub(crate) top: Dir,
    pub(crate) quarantine: Arc<Dir>,
    /// A task holds this lock while it binds or restores blobs, or removes blobs without
    /// references.
    pub(crate) binding: Mutex<()>,
    /// The running gc holds this lock.
    pub(crate) collecting: Mutex<()>,
    /// If the last gc left nothing to do, the number of the last change before that gc.
    pub(crate) settled: std::sync::Mutex<Option<u64>>,
    /// The running verification holds this lock.
    pub(crate) verifying: Mutex<()>,
    pub(crate) checks: Semaphore,
    /// The slots of active image imports.
    pub(crate) imports: Arc<SlotPool>,
    /// The unfinished image imports, including imports that wait for their clients.
    pub(crate) begun_imports: Arc<OpenFileQuota>,
    /// Counts the files that clients have open.
    pub(crate) open_files: Arc<OpenFileQuota>,
    /// Counts the directory lists that clients have open. Each list may be long.
    pub(crate) open_lists: Arc<OpenFileQuota>,
    /// Recent uploads over sftp.
    pub(crate) recent: RecentUploads,
    /// The report of the import, if opening this registry imported a Go registry.
    pub imported: Option<go_import::Report>,
    /// This lock prevents a Go registry from starting.
    _state_db: Option<StateDb>,
    _lock: Lock,
}

/// Why a registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The catalogue cannot be used.
    #[error(transparent)]
    Catalog(#[from] Error),
    /// The state of a Go registry cannot be imported.
    #[error(transparent)]
    Import(#[from] go_import::Error),
}

impl Registry {
    /// Locks and opens the registry at `place`. Creates missing files, and finishes work that a
    /// crash interrupted.
    pub async fn open(place: impl Into<Place>, settings: Settings) -> Result<Self, OpenError> {
        Self::open_counted(&place.into(), settings, &Meter::default()).await
    }

    /// Like [`Registry::open`]; `meter` counts the progress of an import from a Go registry.
    pub async fn open_counted(
        place: &Place,
        settings: Settings,
        meter: &Meter,
    ) -> Result<Self, OpenError> {
        let dir = &*place.dir;
        let top = Dir::open_or_create(dir, 0o700)?;
        let lock = Lock::take(dir)?;
        // The registry takes this lock before it opens the blobs. Otherwise the uploads of a
        // running Go registry would look like the remains of a crash.
        let state_db = StateDb::open(dir)?;
        let blobs = open_files(place, settings.max_upload)?;
        let catalog = match open_catalog(place, &blobs, settings.keep_states, meter).await {
            Err(err) if reserve::release(&top, &blobs)? => {
                tracing::warn!("{err}; the disk is full, so the emergency reserve is removed");
                open_catalog(place, &blobs, settings.keep_states, meter).await?
            }
            opened => opened?,
        };
        own_bucket::check_catalogue(dir, &catalog, place.bucket.is_some()).await?;
        let import_wanted = go_import::is_wanted(state_db.as_ref(), &catalog).await?;
        own_bucket::check_import(dir, import_wanted && place.bucket.is_some())?;
        // From here on, no Go registry can use this directory, so the registry may remove files.
        blobs.clean_up()?;
        if place.bucket.is_none() {
            finish_removals(&blobs, &catalog).await?;
        }
        let quarantine = top.child_or_create(c"quarantine", 0o700)?;
        let imported = match &state_db {
            Some(from) if import_wanted => {
                Some(go_import::take_over(dir, from, &blobs, &quarantine, &catalog, meter).await?)
            }
            _ => None,
        };
        reserve::make(&top, &blobs);
        let (blobs, catalog) = open_store(place, blobs, catalog).await?;
        // The notices come first, so that no change is missed after the fleet was read.
        let notices = catalog.notices();
        let fleet = Arc::new(Fleet::open(&catalog).await?);
        if let Some(notices) = notices {
            fleet.share(notices);
        }
        let registry = Self {
            uploads: UploadRoom::new(&blobs, settings.upload_limits()),
            blobs,
            catalog,
            fleet,
            settings,
            downloads: Arc::default(),
            free_space: FreeSpace::default(),
            surveys: SurveyCache::default(),
            quarantine: Arc::new(quarantine),
            top,
            binding: Mutex::new(()),
            collecting: Mutex::new(()),
            settled: std::sync::Mutex::new(None),
            verifying: Mutex::new(()),
            checks: Semaphore::new(CHECKS),
            imports: SlotPool::new(IMPORTS),
            begun_imports: OpenFileQuota::new(MAX_IMPORTS),
            open_files: OpenFileQuota::new(max_open_files()),
            open_lists: OpenFileQuota::new(LISTS),
            recent: RecentUploads::default(),
            imported,
            _state_db: state_db,
            _lock: lock,
        };
        // This call comes before the first agent connects. Otherwise, the registry could offer the
        // base of a rollout to a host in an open wave.
        registry.fleet.load_rollouts().await?;
        Ok(registry)
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// The free bytes on the local disk, and the size of its filesystem.
    pub(crate) async fn disk_bytes(&self) -> Result<(u64, u64)> {
        let local = Arc::clone(self.blobs.local());
        Ok(blocking(move || Ok((local.free_bytes()?, local.filesystem_bytes()?))).await?)
    }
}

/// Opens the local directories of the blobs. With a bucket, they have copies and unfinished uploads.
fn open_files(place: &Place, max_upload: u64) -> Result<Blobs, OpenError> {
    let (dir, uses_bucket) = (&place.dir, place.bucket.is_some());
    match moved::read(dir)? {
        // The blobs and the catalogue in the directory are no longer used.
        Some(moved) => moved::check_start(dir, &moved, uses_bucket && place.catalogue.is_some())?,
        None => own_bucket::check_files(dir, uses_bucket)?,
    }
    let files = dir.join(if uses_bucket { "cache" } else { "files" });
    let blobs = Blobs::open(&files, &dir.join("uploads"), max_upload)?;
    // SQLite reports no error if the directory is not writable, but staging a blob does.
    match blobs.stage() {
        // The registry must start even if the disk is full, so that gc can free space.
        Err(err) if !err.is_no_space() => return Err(err.into()),
        _ => {}
    }
    Ok(blobs)
}

/// The blobs in the directory or in the bucket, and the catalogue for them.
async fn open_store(
    place: &Place,
    blobs: Blobs,
    catalog: Catalog,
) -> Result<(BlobStore, Catalog), OpenError> {
    let blobs = Arc::new(blobs);
    let Some(settings) = place.bucket.clone() else {
        return Ok((BlobStore::Directory(blobs), catalog));
    };
    // These uploads were not acknowledged, or are in the bucket.
    blobs.expire(SystemTime::now() + UNBOUND)?;
    // A copy may be longer than the longest upload that is allowed now.
    let copies = Blobs::open(&place.dir.join("cache"), &place.dir.join("uploads"), u64::MAX)?;
    let catalog = catalog.with_objects();
    let bucket = Bucket::open(settings, catalog.clone(), blobs, copies).await?;
    Ok((BlobStore::Bucket(bucket, catalog.clone()), catalog))
}

async fn open_catalog(
    place: &Place,
    blobs: &Blobs,
    keep_states: usize,
    meter: &Meter,
) -> Result<Catalog> {
    let (dir, moved) = (&place.dir, moved::read(&place.dir)?);
    if moved.is_none() {
        own_catalogue::check_kind(dir, place.catalogue.is_some())?;
    }
    let Some(url) = &place.catalogue else {
        let catalog = Catalog::open(dir, keep_states, meter).await?;
        moved::check_catalogue(dir, &catalog, None).await?;
        return Ok(catalog);
    };
    let catalog = match place.bucket {
        Some(_) => Catalog::open_shared(url, keep_states, meter).await?,
        None => Catalog::open_server(url, keep_states, meter).await?,
    };
    let checked = async {
        moved::check_catalogue(dir, &catalog, moved.as_ref()).await?;
        own_catalogue::check_server(dir, &catalog, blobs).await
    };
    if let Err(err) = checked.await {
        // The other registries, and migrations, notice at once that this one does not run.
        catalog.close().await;
        return Err(err);
    }
    Ok(catalog)
}

/// Removes condemned blobs: an interrupted gc had already decided to remove these blobs. Also adds
/// rows for blobs without rows.
pub(crate) async fn finish_removals(blobs: &Blobs, catalog: &Catalog) -> Result<(), OpenError> {
    let condemned = catalog.condemned().await?;
    if !condemned.is_empty() {
        blobs.remove_all(condemned.clone())?;
    }
    let rows = async {
        catalog.forget(condemned).await?;
        catalog.register_existing(&blobs.list()?, Timestamp::now()).await
    };
    if let Err(err) = rows.await {
        tracing::warn!("cannot add rows for all blobs; the next start tries again: {err}");
    }
    Ok(())
}

/// Half of the files that the process may open. Connections, uploads and the catalogue need the
/// rest.
fn max_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16).min(1 << 20);
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}
