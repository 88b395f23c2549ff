//! Downloads in flight: what is being read is not collected, though an open file would
//! stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deploy_store::Digest;

/// The downloads of one registry.
#[derive(Debug, Default)]
pub struct Transfers(Mutex<BTreeMap<Digest, usize>>);

/// A download; ends when dropped.
#[derive(Debug)]
pub struct Transfer {
    transfers: Arc<Transfers>,
    digest: Digest,
}

impl Transfers {
    /// A download of `digest` begins.
    pub fn begin(self: &Arc<Self>, digest: Digest) -> Transfer {
        *self.counts().entry(digest).or_insert(0) += 1;
        Transfer { transfers: Arc::clone(self), digest }
    }

    /// The blobs that are being downloaded.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.counts().keys().copied().collect()
    }

    /// How many downloads of `digest` there are.
    pub fn count(&self, digest: Digest) -> usize {
        self.counts().get(&digest).copied().unwrap_or(0)
    }

    /// How many downloads there are.
    pub fn all(&self) -> u64 {
        self.counts().values().map(|count| *count as u64).sum()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut counts = self.transfers.counts();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}
