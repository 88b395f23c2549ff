//! Configurations as agents read them, kept in memory until a change begins. Agents poll every few
//! seconds and nearly always ask for an unchanged configuration. The answer from memory needs no
//! transaction.
//!
//! The catalogue's single connection keeps this correct. A writer calls [`DocumentCache::forget`],
//! and a reader asks for the [`DocumentCache::age`], each while it holds the connection. The cache
//! keeps a document only if no change has begun since the reader asked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use deploy_store::ConfigurationName;

use super::configuration_rows::{find_current, load};
use super::{Catalog, Result};

/// Most bytes that are kept: thousands of configurations of usual size.
const MAX_BYTES: usize = 32 << 20;

/// The documents of one catalogue.
#[derive(Debug, Default)]
pub(super) struct DocumentCache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    age: Age,
    bytes: usize,
    by_name: HashMap<ConfigurationName, Bytes>,
}

/// How many changes have begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Age(u64);

impl Catalog {
    /// The JSON form of the current state of a configuration, if there is such a configuration.
    pub async fn configuration_json(&self, name: &ConfigurationName) -> Result<Option<Bytes>> {
        if let Some(json) = self.documents.get(name) {
            return Ok(Some(json));
        }
        let mut transaction = self.read_tx().await?;
        let age = self.documents.age();
        let Some(number) = find_current(&mut transaction, name).await? else { return Ok(None) };
        let configuration = load(&mut transaction, name, number).await?;
        drop(transaction);
        let json = Bytes::from(configuration.to_json());
        self.documents.keep(age, name, &json);
        Ok(Some(json))
    }
}

impl DocumentCache {
    /// The document of a configuration, if it is kept.
    pub(super) fn get(&self, name: &ConfigurationName) -> Option<Bytes> {
        self.kept().by_name.get(name).cloned()
    }

    /// The present age. A reader asks for it before it reads what it wants to keep.
    pub(super) fn age(&self) -> Age {
        self.kept().age
    }

    /// Keeps a document that was read at `age`, unless a change has begun since.
    pub(super) fn keep(&self, age: Age, name: &ConfigurationName, json: &Bytes) {
        let mut kept = self.kept();
        if kept.age != age || json.len() > MAX_BYTES || kept.by_name.contains_key(name) {
            return;
        }
        if kept.bytes + json.len() > MAX_BYTES {
            // Agents ask again, and the documents come back.
            kept.clear();
        }
        kept.bytes += json.len();
        kept.by_name.insert(name.clone(), json.clone());
    }

    /// Forgets all documents, because a change begins.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        kept.age.0 += 1;
        kept.clear();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn clear(&mut self) {
        self.bytes = 0;
        self.by_name.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ConfigurationName {
        name.parse().unwrap()
    }

    #[test]
    fn document_read_before_a_change_is_not_kept() {
        let documents = DocumentCache::default();
        let age = documents.age();
        documents.forget();
        documents.keep(age, &name("p"), &Bytes::from_static(b"{}"));
        assert_eq!(documents.get(&name("p")), None);
        documents.keep(documents.age(), &name("p"), &Bytes::from_static(b"{}"));
        assert_eq!(documents.get(&name("p")), Some(Bytes::from_static(b"{}")));
        documents.forget();
        assert_eq!(documents.get(&name("p")), None);
    }

    #[test]
    fn cache_stays_within_its_limit() {
        let documents = DocumentCache::default();
        let large = Bytes::from(vec![b' '; MAX_BYTES / 2]);
        for n in 0..5 {
            documents.keep(documents.age(), &name(&format!("p{n}")), &large);
            let kept = documents.kept();
            assert_eq!(kept.by_name.values().map(Bytes::len).sum::<usize>(), kept.bytes);
            assert!(kept.bytes <= MAX_BYTES);
        }
        documents.keep(documents.age(), &name("q"), &Bytes::from(vec![b' '; MAX_BYTES + 1]));
        assert_eq!(documents.get(&name("q")), None);
        assert!(documents.get(&name("p4")).is_some());
    }
}
