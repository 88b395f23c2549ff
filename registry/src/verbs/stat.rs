//! Counts and bytes of a registry, for people who wonder how it is doing.

use std::sync::Arc;

use deploy_store::Swept;
use deploy_wire::command::Refusal;

use crate::registry::{Registry, blocking};
use crate::verbs::collect::{self, Count};
use crate::verbs::verify_blobs;

/// How a registry is doing.
#[derive(Debug, Clone)]
pub struct Stat {
    /// Rows of the catalogue.
    pub counts: Counts,
    /// Blobs on the disk.
    pub blobs: Count,
    /// What all versions would take without sharing blobs.
    pub bound: Count,
    /// Blobs that were set aside because they are damaged.
    pub damaged: u64,
    /// Uploads that are under way or wait to be bound.
    pub staged: Swept,
    /// Downloads in flight.
    pub transfers: u64,
    /// Bytes free on the filesystem.
    pub free: u64,
    /// The last collection.
    pub gc: Option<collect::Noted>,
    /// The last verification.
    pub verify: Option<verify_blobs::Noted>,
}

/// How many of what the catalogue knows.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Components.
    pub components: u64,
    /// Versions of all components.
    pub versions: u64,
    /// Pinned versions.
    pub pins: u64,
    /// Configurations.
    pub configurations: u64,
    /// States of all configurations.
    pub states: u64,
}

impl Stat {
    /// How many times the bytes on the disk all versions would take, each with its own.
    #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    pub fn dedupe_ratio(&self) -> f64 {
        if self.blobs.bytes == 0 { 1.0 } else { self.bound.bytes as f64 / self.blobs.bytes as f64 }
    }
}

impl Registry {
    /// How the registry is doing.
    pub async fn stat(&self) -> Result<Stat, Refusal> {
        let list = self.list_blobs().await?;
        let bytes = list.iter().map(|blob| blob.bytes).sum();
        let store = Arc::clone(self.blobs());
        let (staged, free) = blocking(move || Ok((store.staged()?, store.free_bytes()?))).await?;
        let rows = self.catalog.blobs().await?;
        Ok(Stat {
            counts: self.catalog.counts().await?,
            blobs: Count { blobs: list.len() as u64, bytes },
            bound: self.catalog.bound().await?,
            damaged: rows.iter().filter(|row| row.damaged).count() as u64,
            staged,
            transfers: self.transfers.all(),
            free,
            gc: self.catalog.note(collect::NOTE).await?,
            verify: self.catalog.note(verify_blobs::NOTE).await?,
        })
    }
}
