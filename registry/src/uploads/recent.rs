//! Remembers recent uploads under the paths that clients gave them. After an upload, some clients
//! read the attributes of the file, set its times, or rename the file to its final name.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use deploy_store::Digest;
use jiff::Timestamp;

use crate::caller::Caller;

/// Maximum number of remembered uploads of all keys together.
const MAX_ALL: usize = 2048;
/// Maximum number of remembered uploads of one key. The registry forgets the oldest uploads first.
const MAX_OF_KEY: usize = 256;

/// The remembered uploads, oldest first.
#[derive(Debug, Default)]
pub struct RecentUploads(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    key: String,
    /// The client's address and port, which identify the connection.
    connection: String,
    path: String,
    uploaded: Uploaded,
}

/// A complete upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub bytes: u64,
    /// The time at which the upload was complete.
    pub time: Timestamp,
    /// Whether the upload is bound to a version.
    pub bound: bool,
}

impl RecentUploads {
    /// Remembers an upload of `caller` under `path`. The new upload replaces an earlier upload with
    /// the same path from the same connection.
    pub fn remember(&self, caller: &Caller, path: &str, uploaded: Uploaded) {
        let mut entries = self.entries();
        entries.retain(|entry| !entry.is_of(caller, path));
        let oldest_of_key = entries.iter().position(|entry| entry.key == caller.key);
        let of_key = entries.iter().filter(|entry| entry.key == caller.key).count();
        if let Some(oldest) = oldest_of_key.filter(|_| of_key >= MAX_OF_KEY) {
            entries.remove(oldest);
        } else if entries.len() >= MAX_ALL {
            entries.pop_front();
        }
        let (key, connection) = (caller.key.clone(), caller.address.clone());
        entries.push_back(Entry { key, connection, path: path.to_owned(), uploaded });
    }

    /// Finds the upload with the path `path`. The function first searches the uploads of this
    /// connection of `caller`, and then those of the key's other connections, because some programs
    /// use several connections. Returns `None` if other connections uploaded different bytes to
    /// `path`.
    pub fn find(&self, caller: &Caller, path: &str) -> Option<Uploaded> {
        let entries = self.entries();
        if let Some(entry) = entries.iter().find(|entry| entry.is_of(caller, path)) {
            return Some(entry.uploaded);
        }
        let mut others =
            entries.iter().filter(|entry| entry.key == caller.key && entry.path == path);
        let first = others.next()?.uploaded;
        others.all(|entry| entry.uploaded.digest == first.digest).then_some(first)
    }

    /// Whether this connection of `caller` uploaded `path`.
    pub fn is_own(&self, caller: &Caller, path: &str) -> bool {
        self.entries().iter().any(|entry| entry.is_of(caller, path))
    }

    /// The uploads of this connection of `caller`, with their paths.
    pub fn of_connection(&self, caller: &Caller) -> Vec<(String, Uploaded)> {
        let entries = self.entries();
        let mine = entries.iter().filter(|entry| entry.is_by(caller));
        mine.map(|entry| (entry.path.clone(), entry.uploaded)).collect()
    }

    /// Forgets the upload with the path `path` from this connection of `caller`. If there is none,
    /// forgets the uploads with this path from all connections of the key.
    pub fn forget(&self, caller: &Caller, path: &str) {
        let mut entries = self.entries();
        let own = entries.iter().any(|entry| entry.is_of(caller, path));
        entries.retain(|entry| {
            let same = entry.key == caller.key && entry.path == path;
            !(same && (!own || entry.is_by(caller)))
        });
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_by(&self, caller: &Caller) -> bool {
        self.connection == caller.address && self.key == caller.key
    }

    fn is_of(&self, caller: &Caller, path: &str) -> bool {
        self.path == path && self.is_by(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Client;

    fn caller(key: &str, address: &str) -> Caller {
        let [user, key, address] = ["me", key, address].map(str::to_owned);
        Caller { user, key, address, client: Client::Ssh }
    }

    fn uploaded(text: &[u8]) -> Uploaded {
        let (digest, time) = (Digest::of(text), Timestamp::UNIX_EPOCH);
        Uploaded { digest, bytes: text.len() as u64, time, bound: false }
    }

    #[test]
    fn connection_sees_its_own_uploads_first_and_then_those_of_its_key() {
        let recent = RecentUploads::default();
        let [a, b, c] = ["1", "2", "3"].map(|address| caller("key", address));
        recent.remember(&a, "/x", uploaded(b"a"));
        assert_eq!(recent.find(&b, "/x"), Some(uploaded(b"a")));
        assert_eq!(recent.find(&caller("other", "1"), "/x"), None);
        recent.remember(&b, "/x", uploaded(b"b"));
        assert_eq!(recent.find(&a, "/x"), Some(uploaded(b"a")));
        assert_eq!(recent.find(&b, "/x"), Some(uploaded(b"b")));
        assert_eq!(recent.find(&c, "/x"), None);
        recent.remember(&b, "/x", uploaded(b"a"));
        assert_eq!(recent.find(&c, "/x"), Some(uploaded(b"a")));
        recent.forget(&b, "/x");
        assert_eq!(recent.of_connection(&b), []);
        assert_eq!(recent.of_connection(&a), [("/x".to_owned(), uploaded(b"a"))]);
        recent.forget(&c, "/x");
        assert_eq!(recent.find(&a, "/x"), None);
    }

    #[test]
    fn oldest_uploads_are_forgotten_first() {
        let recent = RecentUploads::default();
        let me = caller("key", "1");
        for n in 0..=MAX_OF_KEY {
            recent.remember(&me, &n.to_string(), uploaded(b"x"));
        }
        assert!(recent.find(&me, "0").is_none() && recent.find(&me, "1").is_some());
        for n in 0..MAX_ALL {
            recent.remember(&caller(&n.to_string(), "2"), "x", uploaded(b"x"));
        }
        assert_eq!(recent.entries().len(), MAX_ALL);
        assert!(recent.of_connection(&me).is_empty());
    }
}
