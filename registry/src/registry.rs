//! The registry: blobs and catalogue together, every verb and the order of its writes.
//! No ssh and no text for people but refusals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deploy_store::disk::Lock;
use deploy_store::{
    Blobs, ComponentName, Configuration, ConfigurationName, Digest, Limits, Swept, VersionName,
    check_archive,
};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore};

use crate::catalog::Catalog;

/// Archives that are checked at once.
const CHECKS: usize = 2;

/// A registry's data directory, held exclusively.
#[derive(Debug)]
pub struct Registry {
    blobs: Arc<Blobs>,
    /// The catalogue, for verbs that touch no blobs.
    pub catalog: Catalog,
    /// Held by whoever makes a reference to a blob or removes blobs without one.
    binding: Mutex<()>,
    checks: Semaphore,
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
}

impl Registry {
    /// Locks and opens the registry in `dir`, making what is missing. No upload may be
    /// over `max_upload` bytes.
    pub async fn open(dir: &Path, max_upload: u64) -> Result<Self, OpenError> {
        deploy_store::disk::Dir::open_or_create(dir, 0o700)?;
        let lock = Lock::take(dir)?;
        let blobs = Blobs::open(&dir.join("files"), &dir.join("uploads"), max_upload)?;
        blobs.expire(SystemTime::UNIX_EPOCH)?;
        Ok(Self {
            blobs: Arc::new(blobs),
            catalog: Catalog::open(dir).await?,
            binding: Mutex::new(()),
            checks: Semaphore::new(CHECKS),
            _lock: lock,
        })
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
    ) -> Result<(), Refusal> {
        self.catalog.check_new_version(component, version).await?;
        if !self.blobs.contains(digest)? {
            self.check_staged(digest).await?;
        }
        let binding = self.binding.lock().await;
        let published = !self.blobs.contains(digest)?;
        if published {
            let blobs = Arc::clone(&self.blobs);
            blocking(move || blobs.publish(digest)).await.map_err(not_uploaded)?;
        }
        let added = self.catalog.add_version(component, version, digest, Timestamp::now()).await;
        if added.is_err() && published && !self.catalog.is_bound(digest).await? {
            self.blobs.withdraw(digest)?;
        }
        drop(binding);
        Ok(added?)
    }

    /// Whether the staged archive is one that agents can unpack.
    async fn check_staged(&self, digest: Digest) -> Result<(), Refusal> {
        let staged = self.blobs.staged_reader(digest).map_err(not_uploaded)?;
        let permit = self.checks.acquire().await;
        let checked = blocking(move || check_archive(staged, Limits::STANDARD)).await;
        drop(permit);
        checked.map(drop).map_err(|err| {
            Refusal::new(exit::FAILED, format!("no agent could unpack {digest}: {err}"))
        })
    }

    /// The JSON form of a configuration's current state.
    pub async fn configuration_json(
        &self,
        name: &ConfigurationName,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        match self.catalog.configuration(name).await.map_err(Refusal::from) {
            Ok(configuration) => Ok(Some(configuration.to_json())),
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

    /// Removes blobs that no version and no kept state needs and that were last written
    /// before `before`. It never runs while a version is being bound.
    pub async fn sweep_blobs(&self, before: SystemTime) -> Result<Swept, Refusal> {
        let _binding = self.binding.lock().await;
        let needed = self.catalog.needed_blobs().await?;
        let blobs = Arc::clone(&self.blobs);
        let swept = blocking(move || {
            let mut swept = Swept::default();
            for blob in blobs.list()? {
                if !needed.contains(&blob.digest) && blob.modified < before {
                    blobs.remove(blob.digest)?;
                    swept.files += 1;
                    swept.bytes += blob.bytes;
                }
            }
            Ok(swept)
        });
        Ok(swept.await?)
    }

    /// Removes uploads that have waited for longer than `age` to be bound.
    pub async fn expire_uploads(&self, age: Duration) -> Result<Swept, Refusal> {
        let _binding = self.binding.lock().await;
        let blobs = Arc::clone(&self.blobs);
        let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(blocking(move || blobs.expire(before)).await?)
    }
}

/// Runs `work`, which waits for the disk, beside the tasks that wait for the network.
async fn blocking<T: Send + 'static>(
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
