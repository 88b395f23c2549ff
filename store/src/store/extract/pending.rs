//! Layers that are extracted and not visible yet. A small layer need not wait for a
//! barrier of its own: it is placed as it is, the barrier before the root becomes visible
//! is for it, too, and then it becomes visible before the root does. Whatever ends the
//! program in between leaves nothing of it; its blob is still here.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError};
use std::thread;

use super::outline::Outline;
use crate::digest::Digest;
use crate::disk::{TempFile, name_of};
use crate::error::Result;
use crate::layer::objects::batch::Batch;
use crate::layer::pipeline::joined;
use crate::store::{Extracted, Store};

/// Bytes of files up to which a layer waits for its root.
const SMALL: u64 = 16 << 20;

/// Directories that layers which wait have open at most: of the 1,024 files that a process may
/// usually have open, most are left.
const MOST_OPEN: usize = 256;

/// A layer that waits for a barrier.
#[derive(Debug)]
pub(in crate::store) struct Pending {
    pub digest: Digest,
    pub batch: Batch,
    /// Its index, complete.
    pub index: TempFile,
    pub extracted: Extracted,
}

impl Store {
    /// As [`Store::extract`], but a small layer becomes visible with the root that is built
    /// next by [`Store::root`], after one barrier for both.
    pub fn extract_for_root(&self, digest: Digest) -> Result<Option<Extracted>> {
        if self.has_layer(digest)? {
            return Ok(None);
        }
        let (pending, outline) = self.decode(digest)?;
        let extracted = pending.extracted;
        if extracted.bytes > SMALL || !self.one_filesystem {
            // It may need objects of those that wait, and is visible before they would be.
            self.settle_pending()?;
            return self.publish_layer(pending, outline).map(Some);
        }
        outline.check()?;
        pending.batch.share();
        self.pending().push(pending);
        let open: usize = self.pending().iter().map(|layer| layer.batch.open_directories()).sum();
        if open > MOST_OPEN {
            self.settle_pending()?;
        }
        Ok(Some(extracted))
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the layer waits.
    pub(in crate::store) fn is_pending(&self, digest: Digest) -> bool {
        self.pending().iter().any(|pending| pending.digest == digest)
    }

    /// The index of a layer that waits.
    pub(in crate::store) fn pending_index(&self, digest: Digest) -> Result<Option<File>> {
        let all = self.pending();
        let pending = all.iter().find(|pending| pending.digest == digest);
        let file = pending.map(|Pending { index, .. }| {
            index.file().try_clone().map_err(|err| index.error("open", err))
        });
        file.transpose()
    }

    /// Makes the layers that wait visible; they are synced.
    pub(in crate::store) fn publish_pending(&self) -> Result<()> {
        let all = std::mem::take(&mut *self.pending());
        // A layer may need objects of any of the others.
        let mut layers = Vec::new();
        for Pending { digest, batch, index, .. } in all {
            batch.publish()?;
            layers.push((digest, index));
        }
        for (digest, index) in layers {
            index.publish(&self.layers, &name_of(digest))?;
            self.done_with_blob(digest)?;
        }
        Ok(())
    }

    /// The same for layers that no root came for.
    pub(in crate::store) fn settle_pending(&self) -> Result<()> {
        let Some(sync) = self.pending().first().map(|pending| pending.batch.sync()) else {
            return Ok(());
        };
        sync?;
        self.publish_pending()
    }

    /// The same, or gives them up: their blobs are still here.
    pub(in crate::store) fn end_pending(&self) {
        if let Err(err) = self.settle_pending() {
            tracing::warn!("layers are to be extracted again: {err}");
            self.pending().clear();
        }
    }

    /// Makes one layer visible, with a barrier of its own.
    pub(in crate::store) fn publish_layer(
        &self,
        layer: Pending,
        outline: Outline,
    ) -> Result<Extracted> {
        let Pending { digest, batch, index, mut extracted } = layer;
        // The one barrier: contents before their names.
        thread::scope(|scope| {
            let syncing = scope.spawn(|| batch.sync());
            outline.check()?;
            joined(syncing.join())
        })?;
        extracted.new_objects = batch.publish()?;
        index.publish(&self.layers, &name_of(digest))?;
        self.done_with_blob(digest)?;
        Ok(extracted)
    }

    /// The blob of a layer that is visible is not needed any more.
    fn done_with_blob(&self, digest: Digest) -> Result<()> {
        if self.keep_blobs { self.blobs.publish_partial(digest) } else { self.forget_blob(digest) }
    }
}

/// Whether one sync reaches both.
pub(in crate::store) fn is_one_filesystem(
    one: &crate::disk::Dir,
    other: &crate::disk::Dir,
) -> Result<bool> {
    Ok(one.device()? == other.device()?)
}
