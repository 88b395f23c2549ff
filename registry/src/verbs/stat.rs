//! The verb `stat`, which counts the rows, the blobs and the bytes of a registry.

use deploy_store::Swept;

use crate::bucket::BucketStat;
use crate::catalog::{BlobCount, RowCounts};
use crate::error::Result;
use crate::registry::Registry;
use crate::verbs::{collect, verify_blobs};

/// Counts and bytes of a registry.
#[derive(Debug, Clone)]
pub struct Stat {
    /// The numbers of rows in the catalogue.
    pub counts: RowCounts,
    /// Blobs that are stored and complete.
    pub blobs: BlobCount,
    /// How many blobs and bytes there would be if each version had its own blob.
    pub bound: BlobCount,
    /// The number of damaged blobs, which are in quarantine.
    pub damaged: u64,
    /// Uploads that are open or wait to be bound.
    pub staged: Swept,
    /// The number of active downloads.
    pub downloads: u64,
    /// The number of free bytes on the filesystem.
    pub free: u64,
    /// The bucket, if the blobs are in a bucket.
    pub bucket: Option<BucketStat>,
    /// The note about the last collection.
    pub gc: Option<collect::Noted>,
    /// The note about the last verification.
    pub verify: Option<verify_blobs::Noted>,
}

impl Stat {
    /// The total size of all versions, divided by the size of the stored blobs. The ratio is above
    /// 1 if versions share blobs, and 1 if there are no blobs.
    #[expect(clippy::cast_precision_loss, reason = "the ratio is shown with two digits")]
    pub fn dedupe_ratio(&self) -> f64 {
        if self.blobs.bytes == 0 { 1.0 } else { self.bound.bytes as f64 / self.blobs.bytes as f64 }
    }
}

impl Registry {
    /// Counts blobs, rows, uploads and downloads.
    pub async fn stat(&self) -> Result<Stat> {
        let (blobs, damaged) = self.catalog.blob_counts().await?;
        let staged = self.blobs().staged().await?;
        let (free, _) = self.disk_bytes().await?;
        let bucket = match self.blobs().bucket() {
            None => None,
            Some(bucket) => Some(bucket.stat().await?),
        };
        Ok(Stat {
            counts: self.catalog.counts().await?,
            blobs,
            bound: self.catalog.bound().await?,
            damaged,
            staged,
            downloads: self.downloads.all(),
            free,
            bucket,
            gc: self.catalog.note(collect::NOTE).await?,
            verify: self.catalog.note(verify_blobs::NOTE).await?,
        })
    }
}
