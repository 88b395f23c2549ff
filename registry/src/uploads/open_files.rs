//! Limits how many files clients may have open for reading. There is a limit for all clients
//! together, and one key may use at most a quarter of this limit. So no key can take the files or
//! the memory that other keys need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The limit for one key is the limit for all clients together, divided by this number.
const SHARE: usize = 4;

/// A limit on open files.
#[derive(Debug)]
pub struct OpenFileQuota {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_key: HashMap<String, usize>,
}

/// One open file. Dropping the value releases its part of the quota.
#[derive(Debug)]
pub struct OpenFileGuard {
    quota: Arc<OpenFileQuota>,
    key: String,
}

impl OpenFileQuota {
    /// A quota of `most` open files.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Opens one more file for `key`, if the limits allow it.
    pub fn open(self: &Arc<Self>, key: &str) -> Option<OpenFileGuard> {
        let mut open = self.counts();
        let own = open.by_key.get(key).copied().unwrap_or(0);
        if open.all >= self.most || own >= (self.most / SHARE).max(1) {
            return None;
        }
        open.all += 1;
        open.by_key.insert(key.to_owned(), own + 1);
        drop(open);
        Some(OpenFileGuard { quota: Arc::clone(self), key: key.to_owned() })
    }

    fn counts(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenFileGuard {
    fn drop(&mut self) {
        let mut open = self.quota.counts();
        open.all -= 1;
        if let Some(own) = open.by_key.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                open.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_may_open_its_share_and_closed_files_free_the_quota() {
        let quota = OpenFileQuota::new(8);
        let mut one: Vec<_> = (0..2).map(|_| quota.open("one").unwrap()).collect();
        assert!(quota.open("one").is_none());
        let others: Vec<_> =
            ["two", "two", "three", "three", "four", "four"].map(|key| quota.open(key)).into();
        assert!(others.iter().all(Option::is_some) && quota.open("five").is_none());
        one.pop();
        assert!(quota.open("five").is_some() && quota.open("one").is_some());
        drop((one, others));
        assert!(quota.counts().all == 0 && quota.counts().by_key.is_empty());
    }
}
