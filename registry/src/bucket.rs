//! Keeps blobs as objects in a bucket of an S3 server. The catalogue has a row for each object, and
//! decides about it; `catalog/object_state.rs` describes the states. The local disk has uploads that
//! are not complete yet, and a cache of copies.
//!
//! ```text
//! address, shared_credentials, object_place, marker   pure: addresses, keys, comparisons
//! health, s3_client                                   requests to the server
//! copy_cache, object_fetch, blob_file                 copies on the local disk
//! send_object, store_upload                           uploads
//! migrate_objects                                     objects of a registry that migrates
//! ownership                                           whether bucket and catalogue belong together
//! object_sweep, compare, reread                       gc and verify
//! ```

mod address;
mod blob_file;
mod compare;
mod copy_cache;
mod health;
mod marker;
mod migrate_objects;
mod object_fetch;
mod object_place;
mod object_sweep;
mod ownership;
mod reread;
#[cfg_attr(not(feature = "bucket"), path = "bucket/no_s3_client.rs")]
mod s3_client;
mod send_object;
mod shared_credentials;
mod store_upload;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deploy_store::{BlobWriter, Blobs, Digest};
use tokio::sync::Semaphore;

use self::copy_cache::Cache;
use self::object_fetch::{Failed, Fetch};
use self::ownership::Ownership;
use self::s3_client::Client;
use crate::blocking::blocking;
use crate::catalog::{BlobCount, Catalog, ObjectRow, ObjectState};
use crate::error::{Error, Result};

pub use self::address::BucketAddress;
pub use self::blob_file::BlobFile;
pub use self::compare::Compared;
pub use self::health::Away;
pub use self::object_sweep::SweptObjects;
pub use self::reread::Reread;
pub use self::store_upload::Complete;

/// How many uploads are sent to the bucket at the same time. Each takes up to 24 MiB of memory.
const SENDS: usize = 4;
/// How many objects are copied from the bucket at the same time.
const FETCHES: usize = 16;

/// How long a bucket may take to answer if somebody asks whether the registry is ready.
const ANSWER: Duration = Duration::from_secs(5);

/// How a registry uses a bucket.
#[derive(Debug, Clone)]
pub struct BucketSettings {
    /// The address.
    pub address: BucketAddress,
    /// Maximum size of the cache, in bytes.
    pub cache: u64,
    /// How long a condemned object is kept.
    pub linger: Duration,
    /// After this time without a heartbeat of another registry, its unfinished uploads are given up.
    pub abandon: Duration,
    /// The number of the bucket whose older catalogue the operator accepts. Then nothing is removed.
    pub accepts_older: Option<u64>,
}

/// The blobs in a bucket.
#[derive(Debug)]
pub struct Bucket {
    client: Client,
    catalog: Catalog,
    settings: BucketSettings,
    /// The local files: uploads that are not complete yet, and copies.
    local: Arc<Blobs>,
    cache: Cache,
    fetches: Mutex<HashMap<Digest, Arc<Fetch>>>,
    fetching: Semaphore,
    sending: Semaphore,
    owned: tokio::sync::Mutex<Ownership>,
}

/// Counts of a bucket.
#[derive(Debug, Clone)]
pub struct BucketStat {
    /// The address.
    pub address: String,
    /// Why the server does not answer. `None` if it answered the last request.
    pub away: Option<Away>,
    /// The objects in each state.
    pub objects: BTreeMap<ObjectState, BlobCount>,
    /// The size of the cache, and its limit, in bytes.
    pub cache: (u64, u64),
    /// Whether the registry removes objects.
    pub removes: bool,
}

impl Bucket {
    /// The blobs in a bucket. `local` are the local directories of the registry, and `copies` are
    /// the same directories without a limit on the size of a file. Fails if the bucket belongs to
    /// another catalogue. If the server does not answer, the check is made later, unless the
    /// catalogue is new.
    pub(crate) async fn open(
        settings: BucketSettings,
        catalog: Catalog,
        local: Arc<Blobs>,
        copies: Blobs,
    ) -> Result<Arc<Self>> {
        let client = Client::new(&settings.address)?;
        let limit = settings.cache;
        let cache = blocking(move || Cache::open(copies, limit)).await?;
        let bucket = Self {
            client,
            catalog,
            settings,
            local,
            cache,
            fetches: Mutex::default(),
            fetching: Semaphore::new(FETCHES),
            sending: Semaphore::new(SENDS),
            owned: tokio::sync::Mutex::default(),
        };
        bucket.begin().await?;
        Ok(Arc::new(bucket))
    }

    /// The local directories.
    pub fn local(&self) -> &Arc<Blobs> {
        &self.local
    }

    /// Whether the registry removes objects.
    pub fn removes(&self) -> bool {
        self.settings.accepts_older.is_none()
    }

    /// How long a condemned object is kept.
    pub fn linger(&self) -> Duration {
        self.settings.linger
    }

    /// Counts the objects and the copies.
    pub async fn stat(&self) -> Result<BucketStat> {
        Ok(BucketStat {
            address: self.settings.address.to_string(),
            away: self.client.health.away(),
            objects: self.catalog.object_counts().await?,
            cache: (self.cache.bytes(), self.cache.limit()),
            removes: self.removes(),
        })
    }

    /// Fails if the server does not answer soon.
    pub async fn require_answer(&self) -> Result<()> {
        match tokio::time::timeout(ANSWER, self.client.get_small(marker::PLACE)).await {
            Ok(answered) => answered.map(drop),
            Err(_) => {
                let address = &self.settings.address;
                let why = format!("bucket {address}: no answer within {ANSWER:?}");
                Err(Error::NoBucket(why))
            }
        }
    }

    /// Removes copies until at least `bytes` bytes of the local disk are free, or no copy is left.
    pub(crate) fn make_room(&self, bytes: u64) -> Result<()> {
        Ok(self.cache.make_room(bytes)?)
    }

    /// Opens a blob: its copy in the cache, or a copy that is being made.
    pub async fn open_blob(self: &Arc<Self>, digest: Digest) -> Result<BlobFile> {
        let row = self.catalog.object(digest).await?;
        let row = row.ok_or(Error::from(deploy_store::Error::NoSuchBlob(digest)))?;
        let bucket = Arc::clone(self);
        Ok(blocking(move || bucket.open_copy(&row)).await?)
    }

    /// A blob as a complete file.
    pub async fn whole_file(self: &Arc<Self>, digest: Digest) -> Result<File> {
        let blob = self.open_blob(digest).await?;
        blob.complete().await?;
        // A second handle of the same open file would share its position with other readers.
        let path = format!("/proc/self/fd/{}", blob.file().as_raw_fd());
        File::open(path).map_err(|err| Error::Failed(format!("open blob {digest}: {err}")))
    }

    fn open_copy(self: &Arc<Self>, row: &ObjectRow) -> deploy_store::Result<BlobFile> {
        let digest = row.digest;
        // This lock ensures that only one copy of an object is made at a time.
        let mut fetches = self.fetches();
        if let Some(fetch) = fetches.get(&digest) {
            let fetch = Arc::clone(fetch);
            return Ok(BlobFile::growing(fetch, row.bytes, row.since.as_second()));
        }
        if let Some(file) = self.cache.reader(digest)? {
            return BlobFile::whole(file);
        }
        let writer = self.cache.begin(row.bytes)?;
        let fetch = Fetch::new(writer.sync_handle()?);
        fetches.insert(digest, Arc::clone(&fetch));
        drop(fetches);
        let (bytes, modified) = (row.bytes, row.since.as_second());
        tokio::spawn(Arc::clone(self).make_copy(row.clone(), Arc::clone(&fetch), writer));
        Ok(BlobFile::growing(fetch, bytes, modified))
    }

    /// Makes a copy, and tells its readers how that ended.
    async fn make_copy(self: Arc<Self>, row: ObjectRow, fetch: Arc<Fetch>, writer: BlobWriter) {
        let (bucket, source, copying) = (Arc::clone(&self), row.clone(), Arc::clone(&fetch));
        let copied = tokio::spawn(async move {
            let _permit = bucket.fetching.acquire().await;
            copying.copy(&bucket.client, &source, writer).await
        });
        let copied = copied.await.unwrap_or_else(|err| {
            Err(Failed::Other(Error::Failed(format!("internal error: {err}"))))
        });
        let (ended, is_damaged) = self.finish_copy(&row, copied).await;
        self.fetches().remove(&row.digest);
        fetch.end(ended);
        if is_damaged {
            self.doubt(&row).await;
        }
    }

    /// Adds a complete copy to the cache. Returns the error for the readers, and whether the object
    /// seems to be damaged.
    async fn finish_copy(
        self: &Arc<Self>,
        row: &ObjectRow,
        copied: Result<(), Failed>,
    ) -> (Result<(), String>, bool) {
        let why = match copied {
            Ok(()) => {
                let (bucket, digest, bytes) = (Arc::clone(self), row.digest, row.bytes);
                let added = blocking(move || bucket.cache.add(digest, bytes)).await;
                if let Err(err) = added {
                    tracing::warn!(digest = %row.digest, "cannot keep a copy in the cache: {err}");
                }
                return (Ok(()), false);
            }
            Err(Failed::Damaged(why)) => return (Err(why), true),
            Err(Failed::Other(Error::NoBucket(why))) => {
                format!("{why}; the file is not in the cache, so try again when the bucket answers")
            }
            Err(Failed::Other(err)) => err.to_string(),
        };
        (Err(why), false)
    }

    fn fetches(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Fetch>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
