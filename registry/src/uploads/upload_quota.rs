//! How many bytes each key has staged: uploads that are open, and those that wait to be
//! bound to a version.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deploy_store::{Digest, Size};

/// The staged bytes of one registry. What was staged before it started counts for nobody.
#[derive(Debug)]
pub struct Staged {
    limit: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<String, u64>,
    waiting: HashMap<Digest, Share>,
    /// When the uploads of a key that wait were renewed last.
    renewed: HashMap<String, Instant>,
}

/// The bytes of one upload; given back when dropped.
#[derive(Debug)]
pub struct Upload {
    staged: Arc<Staged>,
    share: Share,
}

#[derive(Debug, Clone)]
struct Share {
    key: String,
    bytes: u64,
}

impl Staged {
    /// No key may stage more than `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// An upload with `key` begins.
    pub fn begin(self: &Arc<Self>, key: &str) -> Upload {
        let share = Share { key: key.to_owned(), bytes: 0 };
        Upload { staged: Arc::clone(self), share }
    }

    /// Gives back the bytes of waiting uploads that are not there any more.
    pub fn settle(&self, is_there: impl Fn(Digest) -> bool) {
        let mut counts = self.counts();
        let gone: Vec<Digest> =
            counts.waiting.keys().filter(|digest| !is_there(**digest)).copied().collect();
        for digest in gone {
            if let Some(share) = counts.waiting.remove(&digest) {
                counts.give_back(&share);
            }
        }
    }

    /// The uploads that wait to be bound.
    pub fn waiting(&self) -> Vec<Digest> {
        self.counts().waiting.keys().copied().collect()
    }

    /// The uploads of `key` that wait to be bound, if they were not asked for within `pause`:
    /// they belong to one work, which goes on.
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

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn give_back(&mut self, share: &Share) {
        if let Some(bytes) = self.by_key.get_mut(&share.key) {
            *bytes = bytes.saturating_sub(share.bytes);
            if *bytes == 0 {
                self.by_key.remove(&share.key);
                self.renewed.remove(&share.key);
            }
        }
    }
}

impl Upload {
    /// Whose it is.
    pub fn key(&self) -> &str {
        &self.share.key
    }

    /// The upload is `bytes` long by now; an error that says so if the key has too many.
    pub fn grow(&mut self, bytes: u64) -> Result<(), String> {
        let more = bytes.saturating_sub(self.share.bytes);
        let mut counts = self.staged.counts();
        let limit = self.staged.limit;
        let all = counts.by_key.entry(self.share.key.clone()).or_insert(0);
        if all.saturating_add(more) > limit {
            return Err(format!(
                "uploads of this key that no version uses yet would be over {} (-max-staged); bind \
                 some with addver, or wait until they expire",
                Size(limit)
            ));
        }
        *all += more;
        self.share.bytes += more;
        Ok(())
    }

    /// The upload is complete and waits to be bound.
    pub fn wait(mut self, digest: Digest) {
        let share = Share { key: self.share.key.clone(), bytes: self.share.bytes };
        // The bytes are the waiting file's from now on.
        self.share.bytes = 0;
        let mut counts = self.staged.counts();
        if let Some(before) = counts.waiting.insert(digest, share) {
            counts.give_back(&before);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let share = self.share.clone();
        self.staged.counts().give_back(&share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_key_until_they_are_bound_or_gone() {
        let staged = Staged::new(100);
        let digest = Digest::of(b"one");
        let mut one = staged.begin("a");
        one.grow(60).unwrap();
        one.grow(50).unwrap();
        let mut two = staged.begin("a");
        assert!(two.grow(41).unwrap_err().contains("-max-staged"));
        staged.begin("b").grow(100).unwrap();
        one.wait(digest);
        assert!(two.grow(41).is_err());
        // The same bytes once more are one file.
        two.grow(40).unwrap();
        two.wait(digest);
        let mut three = staged.begin("a");
        three.grow(60).unwrap();
        staged.settle(|_| true);
        assert!(three.grow(61).is_err());
        staged.settle(|_| false);
        three.grow(100).unwrap();
        drop(three);
        assert!(staged.counts().by_key.is_empty());
    }

    #[test]
    fn what_waits_is_renewed_with_the_uploads_of_its_key_and_not_all_the_time() {
        let staged = Staged::new(100);
        let put = |key: &str, text: &[u8]| {
            let mut upload = staged.begin(key);
            upload.grow(1).unwrap();
            upload.wait(Digest::of(text));
        };
        put("a", b"one");
        put("a", b"two");
        put("b", b"three");
        let hour = Duration::from_secs(3600);
        let mut renewed = staged.to_renew("a", hour);
        renewed.sort();
        let mut mine = vec![Digest::of(b"one"), Digest::of(b"two")];
        mine.sort();
        assert_eq!(renewed, mine);
        assert!(staged.to_renew("a", hour).is_empty());
        assert_eq!(staged.to_renew("a", Duration::ZERO).len(), 2);
        assert_eq!(staged.to_renew("b", hour), [Digest::of(b"three")]);
        staged.settle(|_| false);
        assert!(staged.counts().renewed.is_empty());
    }
}
