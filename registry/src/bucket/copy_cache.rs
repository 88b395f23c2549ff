//! Keeps copies of objects on the local disk, up to a limit. If the copies are over the limit, the
//! least recently used copies are removed. An open copy stays readable after its removal.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use deploy_store::{BlobInfo, BlobWriter, Blobs, Digest};

/// How often at most the time of the last use of a copy is written.
const TOUCH: Duration = Duration::from_secs(60);
/// Bytes of the disk that a copy leaves free if other copies can be removed.
const SPARE: u64 = 64 << 20;

/// The copies.
#[derive(Debug)]
pub(super) struct Cache {
    blobs: Blobs,
    limit: u64,
    bytes: Mutex<u64>,
}

impl Cache {
    /// The cache in `blobs`, which may have at most `limit` bytes.
    pub(super) fn open(blobs: Blobs, limit: u64) -> deploy_store::Result<Self> {
        let bytes = blobs.list()?.iter().map(|blob| blob.bytes).sum();
        let cache = Self { blobs, limit, bytes: Mutex::new(bytes) };
        cache.shrink_to(limit)?;
        Ok(cache)
    }

    /// The size of all copies, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        *self.total()
    }

    /// The limit, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Opens the copy of a blob, if there is one.
    pub(super) fn reader(&self, digest: Digest) -> deploy_store::Result<Option<File>> {
        let file = match self.blobs.reader(digest) {
            Err(deploy_store::Error::NoSuchBlob(_)) => return Ok(None),
            other => other?,
        };
        let now = SystemTime::now();
        let used = file.metadata().and_then(|meta| meta.modified());
        let used = used.ok().and_then(|used| now.duration_since(used).ok());
        if used.is_none_or(|age| age >= TOUCH) {
            // Without this time, the copy may be removed sooner, but nothing else depends on it.
            let _ = file.set_modified(now);
        }
        Ok(Some(file))
    }

    /// Begins a copy of `bytes` bytes.
    pub(super) fn begin(&self, bytes: u64) -> deploy_store::Result<BlobWriter> {
        self.make_room(bytes.saturating_add(SPARE))?;
        self.blobs.stage()
    }

    /// Removes copies until at least `bytes` bytes of the disk are free, or until no copy is left.
    pub(super) fn make_room(&self, bytes: u64) -> deploy_store::Result<()> {
        let free = self.blobs.free_bytes()?;
        if free >= bytes {
            return Ok(());
        }
        let limit = self.bytes().saturating_sub(bytes - free);
        self.shrink_to(limit)
    }

    /// Adds a complete staged file to the cache.
    pub(super) fn add(&self, digest: Digest, bytes: u64) -> deploy_store::Result<()> {
        if self.blobs.contains(digest)? {
            return self.blobs.unstage(digest);
        }
        match self.blobs.publish(digest) {
            // Another task has added the same bytes.
            Err(deploy_store::Error::NoSuchBlob(_)) if self.blobs.contains(digest)? => {
                return Ok(());
            }
            other => other?,
        }
        *self.total() += bytes;
        self.shrink_to(self.limit)
    }

    /// Removes a copy.
    pub(super) fn remove(&self, digest: Digest) -> deploy_store::Result<()> {
        let bytes = self.blobs.size(digest)?.unwrap_or(0);
        self.blobs.remove(digest)?;
        let mut total = self.total();
        *total = total.saturating_sub(bytes);
        Ok(())
    }

    fn shrink_to(&self, limit: u64) -> deploy_store::Result<()> {
        let mut total = self.total();
        if *total <= limit {
            return Ok(());
        }
        let all = self.blobs.list()?;
        let bytes: u64 = all.iter().map(|blob| blob.bytes).sum();
        let removed = surplus(all, limit);
        *total = bytes - removed.iter().map(|blob| blob.bytes).sum::<u64>();
        self.blobs.remove_all(removed.into_iter().map(|blob| blob.digest))
    }

    fn total(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The copies that have to be removed, least recently used first, so that the rest takes at most
/// nine tenths of `limit`. So the next copies need no removal.
fn surplus(mut copies: Vec<BlobInfo>, limit: u64) -> Vec<BlobInfo> {
    let goal = limit / 10 * 9;
    copies.sort_by_key(|blob| (blob.modified, blob.digest));
    let mut bytes: u64 = copies.iter().map(|blob| blob.bytes).sum();
    let removed = copies.iter().take_while(|blob| {
        let is_over = bytes > goal;
        bytes = bytes.saturating_sub(if is_over { blob.bytes } else { 0 });
        is_over
    });
    let count = removed.count();
    copies.truncate(count);
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_copies_are_removed() {
        let copy = |text: &str, bytes, seconds| BlobInfo {
            digest: Digest::of(text.as_bytes()),
            bytes,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        };
        let all = vec![copy("new", 40, 9), copy("old", 50, 1), copy("middle", 30, 5)];
        let gone =
            |limit| surplus(all.clone(), limit).iter().map(|blob| blob.bytes).collect::<Vec<_>>();
        assert_eq!(gone(200), [0; 0]);
        assert_eq!(gone(100), [50]);
        assert_eq!(gone(60), [50, 30]);
        assert_eq!(gone(0), [50, 30, 40]);
    }

    #[test]
    fn cache_stays_within_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let blobs =
            Blobs::open(&dir.path().join("cache"), &dir.path().join("uploads"), u64::MAX).unwrap();
        let cache = Cache::open(blobs, 100).unwrap();
        for n in 0..20_u8 {
            let mut copy = cache.begin(30).unwrap();
            copy.write_at(0, &[n; 30]).unwrap();
            let digest = copy.finish().unwrap();
            cache.add(digest, 30).unwrap();
            assert!(cache.bytes() <= 100 && cache.bytes() >= 30, "{}", cache.bytes());
            assert_eq!(cache.bytes() / 30, cache.blobs.list().unwrap().len() as u64);
        }
    }
}
