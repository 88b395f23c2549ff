//! What clients have open to read: so much in all, and a quarter of it for one key, so that none
//! takes the files or the memory that all others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The part of all that one key may have.
const SHARE: usize = 4;

/// What is open.
#[derive(Debug)]
pub struct Readers {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_key: HashMap<String, usize>,
}

/// Something that is open; closed when dropped.
#[derive(Debug)]
pub struct Reader {
    readers: Arc<Readers>,
    key: String,
}

impl Readers {
    /// Room for `most`.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// One more of `key`, if there is room for it.
    pub fn open(self: &Arc<Self>, key: &str) -> Option<Reader> {
        let mut open = self.counts();
        let own = open.by_key.get(key).copied().unwrap_or(0);
        if open.all >= self.most || own >= (self.most / SHARE).max(1) {
            return None;
        }
        open.all += 1;
        open.by_key.insert(key.to_owned(), own + 1);
        drop(open);
        Some(Reader { readers: Arc::clone(self), key: key.to_owned() })
    }

    fn counts(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut open = self.readers.counts();
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
    fn one_key_gets_its_share_and_what_is_closed_comes_back() {
        let readers = Readers::new(8);
        let mut one: Vec<_> = (0..2).map(|_| readers.open("one").unwrap()).collect();
        assert!(readers.open("one").is_none());
        let others: Vec<_> =
            ["two", "two", "three", "three", "four", "four"].map(|key| readers.open(key)).into();
        assert!(others.iter().all(Option::is_some) && readers.open("five").is_none());
        one.pop();
        assert!(readers.open("five").is_some() && readers.open("one").is_some());
        drop((one, others));
        assert!(readers.counts().all == 0 && readers.counts().by_key.is_empty());
    }
}
