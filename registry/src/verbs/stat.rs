//! `stat`: counts and bytes of a registry.

use std::sync::Arc;

use deploy_store::Swept;

use crate::blocking::blocking;
use crate::catalog::{BlobCount, RowCounts};
use crate::error::Result;
use crate::registry::Registry;
use crate::verbs::{collect, verify_blobs};

/// Counts and bytes of a registry.
#[derive(Debug, Clone)]
pub struct Stat {
    /// Rows of the catalogue.
    pub counts: RowCounts,
    /// Blobs that are stored and complete.
    pub blobs: BlobCount,
    /// The bytes of all versions if no two versions shared a blob.
    pub bound: BlobCount,
    /// Damaged blobs, which are in quarantine.
    pub damaged: u64,
    /// Uploads that are open or wait to be bound.
    pub staged: Swept,
    /// Active downloads.
    pub downloads: u64,
    /// Bytes free on the filesystem.
    pub free: u64,
    /// The last collection.
    pub gc: Option<collect::Noted>,
    /// The last verification.
    pub verify: Option<verify_blobs::Noted>,
}

impl Stat {
    /// The bytes of all versions, if each had a blob of its own, divided by the bytes on the disk.
    #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    pub fn dedupe_ratio(&self) -> f64 {
        if self.blobs.bytes == 0 { 1.0 } else { self.bound.bytes as f64 / self.blobs.bytes as f64 }
    }
}

impl Registry {
    /// Counts blobs, rows, uploads and downloads.
    pub async fn stat(&self) -> Result<Stat> {
        let (blobs, damaged) = self.catalog.blob_counts().await?;
        let store = Arc::clone(self.blobs());
        let (staged, free) = blocking(move || Ok((store.staged()?, store.free_bytes()?))).await?;
        Ok(Stat {
            counts: self.catalog.counts().await?,
            blobs,
            bound: self.catalog.bound().await?,
            damaged,
            staged,
            downloads: self.downloads.all(),
            free,
            gc: self.catalog.note(collect::NOTE).await?,
            verify: self.catalog.note(verify_blobs::NOTE).await?,
        })
    }
}
