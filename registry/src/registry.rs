//! The registry: blobs and catalogue together, every verb and the order of its writes.
//! No ssh and no text for people but refusals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use deploy_store::disk::{Dir, Lock};
use deploy_store::{
    Blobs, ComponentName, Configuration, ConfigurationName, Digest, Limits, Meter, Size, Swept,
    VersionName, check_archive,
};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use jiff::Timestamp;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Mutex, Semaphore};

use crate::catalog::{Catalog, Change};
use crate::go_import::{self, StateDb};
use crate::uploads::announced::Announced;
use crate::uploads::downloads::Transfers;
use crate::uploads::open_files::Readers;
use crate::uploads::recent::Recent;
use crate::uploads::slots::{Places, Sharing};
use crate::uploads::upload::MAX_UPLOADS;
use crate::uploads::upload_quota::Staged;

/// Archives that are checked at once.
const CHECKS: usize = 2;
/// Images that are imported at once; each takes memory for the names in its layers.
const IMPORTS: Sharing = Sharing { most: 2, share: 1, reserve: 0, silence: Duration::from_secs(5) };
/// Imports that have begun, those that wait for their clients among them.
const MAX_IMPORTS: usize = 32;
/// Uploads that are open at once. Who sends nothing for so long gives way where there is no room.
const UPLOADS: Sharing = Sharing {
    most: MAX_UPLOADS,
    share: MAX_UPLOADS / 4,
    reserve: MAX_UPLOADS / 4,
    silence: Duration::from_secs(60),
};
/// Lists of directories that are read at once: of a registry with 100,000 files one takes some 6 MiB.
const LISTS: usize = 64;
/// How often within -grace uploads that wait are renewed, at most.
const RENEWALS: u32 = 8;

/// What a registry keeps, and how much it takes.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Largest upload, in bytes.
    pub max_upload: u64,
    /// Most bytes that one key may have staged.
    pub max_staged: u64,
    /// What an archive may not exceed that is given a version.
    pub limits: Limits,
    /// Bytes of the filesystem that uploads leave free.
    pub min_free: u64,
    /// Versions of a component that are kept beyond those in use; 0 keeps all.
    pub max_versions: usize,
    /// States of a configuration with different trees that stay targets of a rollback.
    pub keep_states: usize,
    /// How long an upload waits to be bound, and what nothing needs is kept.
    pub grace: Duration,
    /// Whether `addconf` replaces a configuration of that name, as the Go tool's does.
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
            grace: Duration::from_secs(30 * 60),
            addconf_replaces: false,
        }
    }
}

impl Settings {
    /// What was written last before this is old enough to go.
    pub fn grown_up(&self) -> SystemTime {
        SystemTime::now().checked_sub(self.grace).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// A registry's data directory, held exclusively.
#[derive(Debug)]
pub struct Registry {
    blobs: Arc<Blobs>,
    /// The catalogue, for verbs that touch no blobs.
    pub catalog: Catalog,
    /// What it keeps.
    pub settings: Settings,
    /// Downloads in flight.
    pub transfers: Arc<Transfers>,
    /// Bytes of uploads by their keys.
    pub staged: Arc<Staged>,
    /// Uploads that are open.
    pub(crate) uploads: Arc<Places>,
    /// What they have still to bring, as far as that is known.
    pub(crate) announced: Arc<Announced>,
    pub(crate) top: Dir,
    pub(crate) quarantine: Arc<Dir>,
    /// Held by whoever makes a reference to a blob or removes blobs without one.
    pub(crate) binding: Mutex<()>,
    /// Held by the one collection that runs.
    pub(crate) collecting: Mutex<()>,
    /// Held by the one verification that runs.
    pub(crate) verifying: Mutex<()>,
    pub(crate) checks: Semaphore,
    /// Imports of images that are at work.
    pub(crate) imports: Arc<Places>,
    /// Imports of images that have begun.
    pub(crate) importing: Arc<Readers>,
    /// Files that are being read.
    pub(crate) files: Arc<Readers>,
    /// Lists of directories that are being read, each of which may be long.
    pub(crate) lists: Arc<Readers>,
    /// What was uploaded lately over sftp.
    pub(crate) recent: Recent,
    /// What was imported when it was opened.
    pub imported: Option<go_import::Report>,
    /// Keeps a Go registry away.
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
    Catalog(#[from] crate::catalog::Error),
    /// What a Go registry left cannot be taken over.
    #[error(transparent)]
    Import(#[from] crate::go_import::Error),
}

impl Registry {
    /// Locks and opens the registry in `dir`, making what is missing, and ends what a crash
    /// cut short.
    pub async fn open(dir: &Path, settings: Settings) -> Result<Self, OpenError> {
        Self::open_counted(dir, settings, &Meter::default()).await
    }

    /// As [`Registry::open`]; `meter` counts how far an import of what a Go registry kept is.
    pub async fn open_counted(
        dir: &Path,
        settings: Settings,
        meter: &Meter,
    ) -> Result<Self, OpenError> {
        let top = Dir::open_or_create(dir, 0o700)?;
        let lock = Lock::take(dir)?;
        // While a Go registry runs, its uploads look like what a crash left.
        let state_db = StateDb::open(dir)?;
        let blobs = Blobs::open(&dir.join("files"), &dir.join("uploads"), settings.max_upload)?;
        // A directory that cannot be written to says so here, and SQLite does not.
        match blobs.stage() {
            // Whoever frees a full disk has to start first.
            Err(err) if !err.is_no_space() => return Err(err.into()),
            _ => {}
        }
        let catalog = match Catalog::open(dir, settings.keep_states).await {
            // Whoever is to free a full disk has to start first.
            Err(err) if crate::verbs::collect::give_up_reserve(&top, &blobs)? => {
                tracing::warn!("{err}; the disk is full, and the room kept for that is given up");
                Catalog::open(dir, settings.keep_states).await?
            }
            opened => opened?,
        };
        let wanted = go_import::is_wanted(state_db.as_ref(), &catalog).await?;
        // From here on what is removed is nobody else's.
        blobs.clean_up()?;
        let condemned = catalog.condemned().await?;
        if !condemned.is_empty() {
            blobs.remove_all(condemned.clone())?;
        }
        let rows = async {
            catalog.forget(condemned).await?;
            catalog.adopt(&blobs.list()?, Timestamp::now()).await
        };
        if let Err(err) = rows.await {
            tracing::warn!("rows of files are made at the next start: {err}");
        }
        let quarantine = top.child_or_create(c"quarantine", 0o700)?;
        let imported = match &state_db {
            Some(from) if wanted => {
                Some(go_import::take_over(dir, from, &blobs, &quarantine, &catalog, meter).await?)
            }
            _ => None,
        };
        let registry = Self {
            blobs: Arc::new(blobs),
            catalog,
            settings,
            transfers: Arc::default(),
            staged: Staged::new(settings.max_staged),
            uploads: Places::new(UPLOADS),
            announced: Arc::default(),
            quarantine: Arc::new(quarantine),
            top,
            binding: Mutex::new(()),
            collecting: Mutex::new(()),
            verifying: Mutex::new(()),
            checks: Semaphore::new(CHECKS),
            imports: Places::new(IMPORTS),
            importing: Readers::new(MAX_IMPORTS),
            files: Readers::new(files_to_read()),
            lists: Readers::new(LISTS),
            recent: Recent::default(),
            imported,
            _state_db: state_db,
            _lock: lock,
        };
        registry.make_reserve();
        Ok(registry)
    }

    /// The blobs.
    pub fn blobs(&self) -> &Arc<Blobs> {
        &self.blobs
    }

    /// Binds an uploaded or stored blob to a new version. The order: look for what is
    /// against it, check the archive, publish the blob, then the row. When the row
    /// fails, the blob goes back to where it was uploaded to.
    pub async fn add_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        change: &Change,
    ) -> Result<(), Refusal> {
        if let Err(err) = self.catalog.check_new_version(component, version).await {
            // Whoever has the bytes of what was damaged or lost is to send them.
            if !self.blobs.contains(digest)? && self.catalog.is_bound(digest).await? {
                self.blobs.staged_reader(digest).map_err(not_uploaded)?;
            }
            return Err(err.into());
        }
        if !self.blobs.contains(digest)? {
            self.check_staged(digest).await?;
        }
        self.bind(component, version, digest, change).await
    }

    /// Binds a blob that was checked.
    pub(crate) async fn bind(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        change: &Change,
    ) -> Result<(), Refusal> {
        let binding = self.binding.lock().await;
        let published = !self.blobs.contains(digest)?;
        if published {
            let blobs = Arc::clone(&self.blobs);
            blocking(move || blobs.publish(digest)).await.map_err(not_uploaded)?;
        }
        let bytes = self.blobs.size(digest)?.unwrap_or(0);
        let added = self.catalog.add_version(component, version, digest, bytes, change).await;
        if added.is_err() && published && !self.catalog.is_bound(digest).await? {
            self.blobs.withdraw(digest)?;
        }
        drop(binding);
        self.staged.settle(|digest| self.blobs.is_staged(digest).unwrap_or(true));
        Ok(added?)
    }

    /// Whether the staged archive is one that agents can unpack.
    pub(crate) async fn check_staged(&self, digest: Digest) -> Result<(), Refusal> {
        let staged = self.blobs.staged_reader(digest).map_err(not_uploaded)?;
        let permit = self.checks.acquire().await;
        let limits = self.settings.limits;
        let checked = blocking(move || check_archive(staged, limits)).await;
        drop(permit);
        checked.map(drop).map_err(|err| {
            Refusal::new(exit::FAILED, format!("no agent could unpack {digest}: {err}"))
        })
    }

    /// The JSON form of a configuration's current state.
    pub async fn configuration_json(
        &self,
        name: &ConfigurationName,
    ) -> Result<Option<Bytes>, Refusal> {
        match self.catalog.configuration_json(name).await.map_err(Refusal::from) {
            Ok(json) => Ok(Some(json)),
            Err(refusal) if refusal.code == exit::NOT_FOUND => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The current states of all configurations.
    pub async fn configurations(&self) -> Result<Vec<Configuration>, Refusal> {
        let mut configurations = Vec::new();
        for name in self.catalog.configuration_names().await? {
            match self.catalog.configuration(&name).await.map_err(Refusal::from) {
                Ok(configuration) => configurations.push(configuration),
                // Deleted since the names were read.
                Err(refusal) if refusal.code == exit::NOT_FOUND => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(configurations)
    }

    /// Removes uploads that have waited for longer than `age` to be bound.
    pub async fn expire_uploads(&self, age: Duration) -> Result<Swept, Refusal> {
        let _binding = self.binding.lock().await;
        let blobs = Arc::clone(&self.blobs);
        let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let swept = blocking(move || blobs.expire(before)).await?;
        // What cannot be looked at is counted on.
        self.staged.settle(|digest| self.blobs.is_staged(digest).unwrap_or(true));
        Ok(swept)
    }

    /// Has what waits of `key` wait on while more of it comes, as in the import of an image of
    /// many layers.
    pub(crate) async fn renew_staged(&self, key: &str) {
        let waiting = self.staged.to_renew(key, self.settings.grace / RENEWALS);
        if waiting.is_empty() {
            return;
        }
        let blobs = Arc::clone(&self.blobs);
        if let Err(err) = blocking(move || blobs.renew_staged(&waiting)).await {
            tracing::warn!("uploads may expire early: {err}");
        }
    }

    /// An error that says so where an upload would leave too little free, as far as is known of
    /// it and of the others.
    pub fn check_free(&self) -> Result<(), String> {
        self.check_room(0, self.announced.bytes())
    }

    /// The same for `bytes` that are to come where others are still to bring `announced`.
    pub(crate) fn check_room(&self, bytes: u64, announced: u64) -> Result<(), String> {
        let floor = self.settings.min_free;
        let free = self.blobs.free_bytes().map_err(|err| err.to_string())?;
        let taken = bytes.saturating_add(announced);
        if free.checked_sub(floor).is_some_and(|room| room >= taken) {
            return Ok(());
        }
        let (free, floor) = (Size(free), Size(floor));
        let others = match announced {
            0 => String::new(),
            announced => format!(", and other uploads have still to bring {}", Size(announced)),
        };
        let this = match bytes {
            0 => String::new(),
            bytes => format!(": there is no room for {}", Size(bytes)),
        };
        Err(format!(
            "the registry's disk has {free} free and keeps {floor} (-min-free){others}{this}; gc may free some"
        ))
    }
}

/// Half of the files that the process may have open: connections, uploads and the catalogue need
/// some, too.
fn files_to_read() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16).min(1 << 20);
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}

/// Runs `work`, which waits for the disk, beside the tasks that wait for the network.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> deploy_store::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|err| {
        let cause = std::io::Error::other(err);
        Err(deploy_store::Error::Io { action: "finish", path: PathBuf::from("work"), cause })
    })
}

fn not_uploaded(err: deploy_store::Error) -> Refusal {
    match err {
        deploy_store::Error::NoSuchBlob(_) => {
            Refusal::new(exit::NOT_FOUND, "no uploaded file with given hash found")
        }
        other => other.into(),
    }
}
