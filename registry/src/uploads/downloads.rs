//! Counts active downloads. gc keeps each blob that a client is downloading. Even without this
//! rule, the download would succeed, because an open file stays readable after its removal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deploy_store::Digest;

/// The downloads of one registry.
#[derive(Debug, Default)]
pub struct ActiveDownloads(Mutex<BTreeMap<Digest, usize>>);

/// An active download. Dropping the value ends the download.
#[derive(Debug)]
pub struct Download {
    downloads: Arc<ActiveDownloads>,
    digest: Digest,
}

impl ActiveDownloads {
    /// Begins a download of `digest`.
    pub fn begin(self: &Arc<Self>, digest: Digest) -> Download {
        *self.counts().entry(digest).or_insert(0) += 1;
        Download { downloads: Arc::clone(self), digest }
    }

    /// The blobs that are being downloaded.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.counts().keys().copied().collect()
    }

    /// The number of active downloads of `digest`.
    pub fn count(&self, digest: Digest) -> usize {
        self.counts().get(&digest).copied().unwrap_or(0)
    }

    /// The number of active downloads of all blobs.
    pub fn all(&self) -> u64 {
        self.counts().values().map(|count| *count as u64).sum()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut counts = self.downloads.counts();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}
