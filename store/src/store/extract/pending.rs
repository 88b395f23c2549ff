//! Manages pending layers, which are extracted but not visible yet. A small layer needs no barrier
//! (a sync of the filesystem) of its own. The agent places the layer's files in the next root
//! before the layer is visible. The layer shares the barrier of this root, and becomes visible
//! before the root. If the program ends before the layer is visible, the next agent extracts the
//! layer again from its blob, which is still stored.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError};
use std::thread;

use super::merge_check::MergeCheck;
use crate::digest::Digest;
use crate::disk::{TempFile, name_of};
use crate::error::Result;
use crate::layer::objects::batch::Batch;
use crate::layer::pipeline::joined;
use crate::store::{Extracted, Store};

/// The maximum total size, in bytes, of the files of a layer that waits for its root.
const SMALL: u64 = 16 << 20;

/// The maximum number of directories that pending layers keep open. A process may usually have
/// 1,024 open files, so most of the 1,024 files stay available for other work.
const MOST_OPEN: usize = 256;

/// A layer that waits for a barrier.
#[derive(Debug)]
pub(in crate::store) struct Pending {
    pub digest: Digest,
    pub batch: Batch,
    /// The complete index.
    pub index: TempFile,
    pub extracted: Extracted,
}

impl Store {
    /// Like [`Store::extract`], but a small layer usually becomes visible only with the next root
    /// that [`Store::root`] builds, so that one barrier covers the layer and the root.
    pub fn extract_for_root(&self, digest: Digest) -> Result<Option<Extracted>> {
        if self.has_layer(digest)? {
            return Ok(None);
        }
        let (pending, merge_check) = self.decode(digest)?;
        let extracted = pending.extracted;
        if extracted.bytes > SMALL || !self.one_filesystem {
            // This layer may use objects of the pending layers. So the pending layers become
            // visible first.
            self.flush_pending()?;
            return self.publish_layer(pending, merge_check).map(Some);
        }
        merge_check.check()?;
        pending.batch.share();
        self.pending().push(pending);
        let open: usize = self.pending().iter().map(|layer| layer.batch.open_directories()).sum();
        if open > MOST_OPEN {
            self.flush_pending()?;
        }
        Ok(Some(extracted))
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the layer is pending.
    pub(in crate::store) fn is_pending(&self, digest: Digest) -> bool {
        self.pending().iter().any(|pending| pending.digest == digest)
    }

    /// The index of the layer, if the layer is pending.
    pub(in crate::store) fn pending_index(&self, digest: Digest) -> Result<Option<File>> {
        let all = self.pending();
        let pending = all.iter().find(|pending| pending.digest == digest);
        let file = pending.map(|Pending { index, .. }| {
            index.file().try_clone().map_err(|err| index.error("open", err))
        });
        file.transpose()
    }

    /// Makes the pending layers visible. The caller must have synced the layers.
    pub(in crate::store) fn publish_pending(&self) -> Result<()> {
        let all = std::mem::take(&mut *self.pending());
        // A layer may need objects of any other pending layer, so all objects are published first.
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

    /// Syncs the pending layers, and makes these layers visible without a root.
    pub(in crate::store) fn flush_pending(&self) -> Result<()> {
        let Some(sync) = self.pending().first().map(|pending| pending.batch.sync()) else {
            return Ok(());
        };
        sync?;
        self.publish_pending()
    }

    /// Makes the pending layers visible. If an error occurs, the method discards these layers.
    /// Their blobs are still stored.
    pub(in crate::store) fn flush_or_drop_pending(&self) {
        if let Err(err) = self.flush_pending() {
            tracing::warn!("pending layers will be extracted again: {err}");
            self.pending().clear();
        }
    }

    /// Makes one layer visible, with a barrier of its own.
    pub(in crate::store) fn publish_layer(
        &self,
        layer: Pending,
        merge_check: MergeCheck,
    ) -> Result<Extracted> {
        let Pending { digest, batch, index, mut extracted } = layer;
        // The merge check runs during the sync. This sync is the only barrier: it syncs the
        // contents of the files before the names of the files appear.
        thread::scope(|scope| {
            let syncing = scope.spawn(|| batch.sync());
            merge_check.check()?;
            joined(syncing.join())
        })?;
        extracted.new_objects = batch.publish()?;
        index.publish(&self.layers, &name_of(digest))?;
        self.done_with_blob(digest)?;
        Ok(extracted)
    }

    /// Removes the blob of a visible layer. If blobs are kept, the method publishes the blob
    /// instead.
    fn done_with_blob(&self, digest: Digest) -> Result<()> {
        if self.keep_blobs { self.blobs.publish_partial(digest) } else { self.forget_blob(digest) }
    }
}

/// Whether one sync covers both the cache and the roots.
pub(in crate::store) fn is_one_filesystem(
    one: &crate::disk::Dir,
    other: &crate::disk::Dir,
) -> Result<bool> {
    Ok(one.device()? == other.device()?)
}
