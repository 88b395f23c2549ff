//! Counts how many bytes each key has staged. These are the bytes of open uploads, and of complete
//! uploads that are not bound to a version yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deploy_store::{Digest, Size};

use crate::error::{Error, Result};

/// The staged bytes of one registry. Uploads from before the registry's start do not count for any
/// key.
#[derive(Debug)]
pub struct UploadQuota {
    limit: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<String, u64>,
    waiting: HashMap<Digest, Share>,
    /// For each key, the time at which its waiting uploads were last renewed.
    renewed: HashMap<String, Instant>,
}

/// The bytes of one upload. Dropping the value gives the bytes back to the key's quota.
#[derive(Debug)]
pub struct QuotaShare {
    quota: Arc<UploadQuota>,
    share: Share,
    /// The bytes that the catalogue counted when the upload began.
    counted: u64,
}

#[derive(Debug, Clone)]
struct Share {
    key: String,
    bytes: u64,
}

impl UploadQuota {
    /// A quota that allows each key at most `limit` staged bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// Begins an upload with `key`.
    pub fn begin(self: &Arc<Self>, key: &str) -> QuotaShare {
        self.begin_beside(key, 0)
    }

    /// Like [`UploadQuota::begin`], for a key that has `counted` more bytes staged, which the
    /// catalogue counts.
    pub fn begin_beside(self: &Arc<Self>, key: &str, counted: u64) -> QuotaShare {
        let share = Share { key: key.to_owned(), bytes: 0 };
        QuotaShare { quota: Arc::clone(self), share, counted }
    }

    /// Finds waiting uploads that are no longer staged, and gives their bytes back to the quotas of
    /// their keys.
    pub fn release_gone(&self, is_there: impl Fn(Digest) -> bool) {
        let mut counts = self.counts();
        let gone: Vec<Digest> =
            counts.waiting.keys().filter(|digest| !is_there(**digest)).copied().collect();
        for digest in gone {
            if let Some(share) = counts.waiting.remove(&digest) {
                counts.release(&share);
            }
        }
    }

    /// The complete uploads that are not bound to a version yet.
    pub fn waiting(&self) -> Vec<Digest> {
        self.counts().waiting.keys().copied().collect()
    }

    /// The waiting uploads of `key`. The list is empty if the last list for this key is younger
    /// than `pause`. The caller renews these uploads, because they may belong to an import that is
    /// still running.
    pub fn to_renew(&self, key: &str, pause: Duration) -> Vec<Digest> {
        let (mut counts, now) = (self.counts(), Instant::now());
        if counts.renewed.get(key).is_some_and(|last| now.duration_since(*last) < pause) {
            return Vec::new();
        }
        let mine = counts.waiting.iter().filter(|(_, share)| share.key == key);
        let digests: Vec<Digest> = mine.map(|(digest, _)| *digest).collect();
        if !digests.is_empty() {
            counts.renewed.insert(key.to_owned(), now);
        }
        digests
    }

    /// Whether this function has not returned `true` for `key` within the last `pause`.
    pub fn is_renewal_due(&self, key: &str, pause: Duration) -> bool {
        let (mut counts, now) = (self.counts(), Instant::now());
        if counts.renewed.get(key).is_some_and(|last| now.duration_since(*last) < pause) {
            return false;
        }
        counts.renewed.insert(key.to_owned(), now);
        true
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn release(&mut self, share: &Share) {
        if let Some(bytes) = self.by_key.get_mut(&share.key) {
            *bytes = bytes.saturating_sub(share.bytes);
            if *bytes == 0 {
                self.by_key.remove(&share.key);
                self.renewed.remove(&share.key);
            }
        }
    }
}

impl QuotaShare {
    /// The key of the upload.
    pub fn key(&self) -> &str {
        &self.share.key
    }

    /// Records that the upload now has `bytes` bytes. Fails with [`Error::OverLimit`] if the key's
    /// staged bytes would exceed the limit.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.share.bytes);
        let mut counts = self.quota.counts();
        let limit = self.quota.limit;
        let all = counts.by_key.entry(self.share.key.clone()).or_insert(0);
        if all.saturating_add(more).saturating_add(self.counted) > limit {
            return Err(Error::OverLimit(format!(
                "uploads of this key that no version uses yet would be over {} (-max-staged); bind \
                 some with addver, or wait until they expire",
                Size(limit)
            )));
        }
        *all += more;
        self.share.bytes += more;
        Ok(())
    }

    /// Records that the upload is complete and waits to be bound.
    pub fn wait(mut self, digest: Digest) {
        let share = Share { key: self.share.key.clone(), bytes: self.share.bytes };
        // From now on, the bytes belong to the waiting upload.
        self.share.bytes = 0;
        let mut counts = self.quota.counts();
        if let Some(before) = counts.waiting.insert(digest, share) {
            counts.release(&before);
        }
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        let share = self.share.clone();
        self.quota.counts().release(&share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_for_their_key_until_they_are_bound_or_removed() {
        let quota = UploadQuota::new(100);
        let digest = Digest::of(b"one");
        let mut one = quota.begin("a");
        one.grow(60).unwrap();
        one.grow(50).unwrap();
        let mut two = quota.begin("a");
        assert!(two.grow(41).unwrap_err().to_string().contains("-max-staged"));
        quota.begin("b").grow(100).unwrap();
        one.wait(digest);
        assert!(two.grow(41).is_err());
        // Two complete uploads of the same bytes are one staged file, which counts once.
        two.grow(40).unwrap();
        two.wait(digest);
        let mut three = quota.begin("a");
        three.grow(60).unwrap();
        quota.release_gone(|_| true);
        assert!(three.grow(61).is_err());
        quota.release_gone(|_| false);
        three.grow(100).unwrap();
        drop(three);
        assert!(quota.counts().by_key.is_empty());
    }

    #[test]
    fn waiting_uploads_of_a_key_are_renewed_together_at_intervals() {
        let quota = UploadQuota::new(100);
        let put = |key: &str, text: &[u8]| {
            let mut upload = quota.begin(key);
            upload.grow(1).unwrap();
            upload.wait(Digest::of(text));
        };
        put("a", b"one");
        put("a", b"two");
        put("b", b"three");
        let hour = Duration::from_secs(3600);
        let mut renewed = quota.to_renew("a", hour);
        renewed.sort();
        let mut mine = vec![Digest::of(b"one"), Digest::of(b"two")];
        mine.sort();
        assert_eq!(renewed, mine);
        assert!(quota.to_renew("a", hour).is_empty());
        assert_eq!(quota.to_renew("a", Duration::ZERO).len(), 2);
        assert_eq!(quota.to_renew("b", hour), [Digest::of(b"three")]);
        quota.release_gone(|_| false);
        assert!(quota.counts().renewed.is_empty());
    }
}
