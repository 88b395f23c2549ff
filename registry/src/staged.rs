//! How many bytes each key has staged: uploads that are open, and those that wait to be
//! bound to a version.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deploy_store::Digest;

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
            }
        }
    }
}

impl Upload {
    /// The upload is `bytes` long by now; an error that says so if the key has too many.
    pub fn grow(&mut self, bytes: u64) -> Result<(), String> {
        let more = bytes.saturating_sub(self.share.bytes);
        let mut counts = self.staged.counts();
        let limit = self.staged.limit;
        let all = counts.by_key.entry(self.share.key.clone()).or_insert(0);
        if all.saturating_add(more) > limit {
            return Err(format!(
                "uploads of this key that no version uses yet would be over {limit} bytes \
                 (-max-staged); bind some with addver, or wait until they expire"
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
}
