//! The blobs of a registry: files in its directory, or objects in a bucket. Both places have the
//! same two kinds of blobs: stored blobs, which versions may refer to, and staged blobs, which wait
//! to be bound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deploy_store::{BlobInfo, Blobs, Digest, Swept};

use crate::blocking::blocking;
use crate::bucket::{BlobFile, Bucket};
use crate::catalog::{Catalog, ObjectState};
use crate::error::Result;

/// The blobs of a registry.
#[derive(Debug, Clone)]
pub enum BlobStore {
    /// Files in the registry's directory.
    Directory(Arc<Blobs>),
    /// Objects in a bucket. The catalogue says which objects exist.
    Bucket(Arc<Bucket>, Catalog),
}

impl BlobStore {
    /// The local directories. With a bucket, they have uploads that are not in the bucket yet, and
    /// copies of objects.
    pub fn local(&self) -> &Arc<Blobs> {
        match self {
            Self::Directory(blobs) => blobs,
            Self::Bucket(bucket, _) => bucket.local(),
        }
    }

    /// The bucket, if the blobs are in a bucket.
    pub fn bucket(&self) -> Option<&Arc<Bucket>> {
        match self {
            Self::Directory(_) => None,
            Self::Bucket(bucket, _) => Some(bucket),
        }
    }

    /// Whether the blob is stored.
    pub async fn contains(&self, digest: Digest) -> Result<bool> {
        match self {
            Self::Directory(blobs) => Ok(blobs.contains(digest)?),
            Self::Bucket(..) => Ok(self.size(digest).await?.is_some()),
        }
    }

    /// Whether the blob is complete and waits to be bound.
    pub async fn is_staged(&self, digest: Digest) -> Result<bool> {
        match self {
            Self::Directory(blobs) => Ok(blobs.is_staged(digest)?),
            Self::Bucket(_, catalog) => {
                let object = catalog.object(digest).await?;
                Ok(object.is_some_and(|object| object.state == ObjectState::Staged))
            }
        }
    }

    /// The length of a stored blob in bytes. `None` if there is no such blob.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>> {
        match self {
            Self::Directory(blobs) => Ok(blobs.size(digest)?),
            Self::Bucket(_, catalog) => Ok(catalog.object_sizes(&[digest]).await?.remove(&digest)),
        }
    }

    /// The lengths of stored blobs. Blobs that are not stored are left out.
    pub async fn sizes(&self, digests: Vec<Digest>) -> Result<BTreeMap<Digest, u64>> {
        match self {
            Self::Directory(blobs) => {
                let blobs = Arc::clone(blobs);
                let sizes = blocking(move || {
                    let size = |digest| Ok(blobs.size(digest)?.map(|bytes| (digest, bytes)));
                    digests.into_iter().filter_map(|digest| size(digest).transpose()).collect()
                });
                Ok(sizes.await?)
            }
            Self::Bucket(_, catalog) => catalog.object_sizes(&digests).await,
        }
    }

    /// All stored blobs, sorted by digest.
    pub async fn list(&self) -> Result<Vec<BlobInfo>> {
        match self {
            Self::Directory(blobs) => {
                let blobs = Arc::clone(blobs);
                Ok(blocking(move || blobs.list()).await?)
            }
            Self::Bucket(_, catalog) => catalog.live_objects().await,
        }
    }

    /// Opens a stored blob. If the blob is removed while it is open, it stays readable.
    pub async fn open(&self, digest: Digest) -> Result<BlobFile> {
        match self {
            Self::Directory(blobs) => {
                let blobs = Arc::clone(blobs);
                Ok(blocking(move || BlobFile::whole(blobs.reader(digest)?)).await?)
            }
            Self::Bucket(bucket, catalog) => match catalog.object(digest).await {
                Ok(Some(object)) if object.state == ObjectState::Live => {
                    bucket.open_object(object).await
                }
                Ok(_) => Err(deploy_store::Error::NoSuchBlob(digest).into()),
                // A copy needs no row: its name says what it contains.
                Err(err) => bucket.cached_copy(digest).await?.ok_or(err),
            },
        }
    }

    /// Complete files of stored blobs. With a bucket, this call may wait for copies.
    pub async fn files(&self, digests: BTreeSet<Digest>) -> Result<BTreeMap<Digest, File>> {
        let mut files = BTreeMap::new();
        for digest in digests {
            let file = match self {
                Self::Directory(blobs) => blobs.reader(digest)?,
                Self::Bucket(bucket, _) => bucket.whole_file(digest).await?,
            };
            files.insert(digest, file);
        }
        Ok(files)
    }

    /// The complete file of a staged blob, if the archive has yet to be checked. `None` if it was
    /// checked before.
    pub async fn unchecked_file(&self, digest: Digest) -> Result<Option<File>> {
        match self {
            Self::Directory(blobs) => Ok(Some(blobs.staged_reader(digest)?)),
            Self::Bucket(bucket, catalog) => match catalog.object(digest).await? {
                Some(object) if object.checked => Ok(None),
                Some(object) if object.state == ObjectState::Staged => {
                    bucket.whole_file(digest).await.map(Some)
                }
                _ => Err(deploy_store::Error::NoSuchBlob(digest).into()),
            },
        }
    }

    /// Removes a complete staged blob. A missing blob counts as success.
    pub async fn unstage(&self, digest: Digest) -> Result<()> {
        match self {
            Self::Directory(blobs) => Ok(blobs.unstage(digest)?),
            Self::Bucket(_, catalog) => catalog.unstage_object(digest).await,
        }
    }

    /// The number of staged blobs and of uploads that are not complete, and their size.
    pub async fn staged(&self) -> Result<Swept> {
        let local = Arc::clone(self.local());
        let mut staged = blocking(move || local.staged()).await?;
        if let Self::Bucket(_, catalog) = self
            && let Some(count) = catalog.object_counts().await?.get(&ObjectState::Staged)
        {
            staged.files += count.blobs;
            staged.bytes += count.bytes;
        }
        Ok(staged)
    }

    /// Removes staged blobs that have waited for longer than `age`.
    pub async fn expire(&self, age: Duration) -> Result<Swept> {
        match self {
            Self::Directory(blobs) => {
                let (blobs, before) = (Arc::clone(blobs), ago(age));
                Ok(blocking(move || blobs.expire(before)).await?)
            }
            Self::Bucket(bucket, _) if !bucket.removes() => Ok(Swept::default()),
            Self::Bucket(_, catalog) => catalog.expire_objects(age).await,
        }
    }

    /// Counts the blobs that [`BlobStore::expire`] would remove.
    pub async fn would_expire(&self, age: Duration) -> Result<Swept> {
        match self {
            Self::Directory(blobs) => {
                let (blobs, before) = (Arc::clone(blobs), ago(age));
                Ok(blocking(move || blobs.would_expire(before)).await?)
            }
            Self::Bucket(_, catalog) => catalog.would_expire_objects(age).await,
        }
    }

    /// The time that was `age` ago, by the clock that gives the blobs their times.
    pub async fn before(&self, age: Duration) -> Result<SystemTime> {
        match self {
            Self::Directory(_) => Ok(ago(age)),
            Self::Bucket(_, catalog) => {
                let now = SystemTime::from(catalog.now().await?);
                Ok(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
            }
        }
    }
}

fn ago(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}
