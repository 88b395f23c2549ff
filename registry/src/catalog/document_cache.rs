//! Caches configurations in the form that agents read: JSON documents. Thousands of agents
//! may poll, and they nearly always ask for an unchanged configuration. An answer from memory needs no
//! transaction.
//!
//! A transaction calls [`DocumentCache::begin_change`] before it changes a configuration, and
//! [`DocumentCache::end_change`] when it has ended. Between these calls, the cache keeps no
//! document of the configuration. A reader calls [`DocumentCache::age`] before its own transaction
//! begins. The cache keeps the reader's document only if no change has begun or ended since this
//! call. So a document from memory is never older than the document that a reader of the database
//! would see.
//!
//! If several registries may use the catalogue, other processes change configurations, too. Each
//! document then has the revision of its configuration, and a reader names the revision that it has
//! just read.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use deploy_store::ConfigurationName;

/// Maximum total size of the kept documents, in bytes. Thousands of documents of the usual size fit
/// into the cache.
const MAX_BYTES: usize = 32 << 20;

/// The documents of one catalogue.
#[derive(Debug, Default)]
pub(super) struct DocumentCache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    age: Age,
    bytes: usize,
    /// The documents with their revisions.
    by_name: HashMap<ConfigurationName, (Option<u64>, Bytes)>,
    /// For each configuration, the number of transactions that are changing it.
    changing: HashMap<ConfigurationName, usize>,
}

/// A counter that grows when a change begins, and when a change ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Age(u64);

impl DocumentCache {
    /// The document of a configuration, if the cache keeps one with this revision.
    pub(super) fn get(&self, name: &ConfigurationName, revision: Option<u64>) -> Option<Bytes> {
        let kept = self.kept();
        let (kept, json) = kept.by_name.get(name)?;
        (*kept == revision).then(|| json.clone())
    }

    /// The counter of the changes that have begun or ended. A reader calls this function before its
    /// transaction begins.
    pub(super) fn age(&self) -> Age {
        self.kept().age
    }

    /// Keeps the document `json` that a reader has read. The reader got `age` before its
    /// transaction began. If a change has begun or ended since `age`, or is in progress for this
    /// configuration, the function does nothing.
    pub(super) fn keep(
        &self,
        age: Age,
        name: &ConfigurationName,
        revision: Option<u64>,
        json: &Bytes,
    ) {
        let mut kept = self.kept();
        let is_known = kept.by_name.get(name).is_some_and(|(kept, _)| *kept == revision);
        if kept.age != age || kept.changing.contains_key(name) || is_known || json.len() > MAX_BYTES
        {
            return;
        }
        if kept.bytes + json.len() > MAX_BYTES {
            // The next polls fill the cache again.
            kept.clear();
        }
        kept.bytes += json.len();
        let before = kept.by_name.insert(name.clone(), (revision, json.clone()));
        kept.bytes -= before.map_or(0, |(_, json)| json.len());
    }

    /// Announces that a transaction is about to change the configuration `name`.
    pub(super) fn begin_change(&self, name: &ConfigurationName) {
        let mut kept = self.kept();
        kept.age.0 += 1;
        *kept.changing.entry(name.clone()).or_default() += 1;
        if let Some((_, json)) = kept.by_name.remove(name) {
            kept.bytes -= json.len();
        }
    }

    /// Reports the end of a transaction that [`DocumentCache::begin_change`] announced. The
    /// transaction is committed or undone.
    pub(super) fn end_change(&self, name: &ConfigurationName) {
        let mut kept = self.kept();
        kept.age.0 += 1;
        if let Some(count) = kept.changing.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                kept.changing.remove(name);
            }
        }
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
    fn document_read_before_or_during_a_change_is_not_kept() {
        let (documents, json) = (DocumentCache::default(), Bytes::from_static(b"{}"));
        let keep = |age| {
            documents.keep(age, &name("p"), None, &json);
            documents.get(&name("p"), None).is_some()
        };
        let before = documents.age();
        documents.begin_change(&name("p"));
        let during = documents.age();
        assert!(!keep(before) && !keep(during));
        // A second change of the same configuration begins before the first ends.
        documents.begin_change(&name("p"));
        documents.end_change(&name("p"));
        assert!(!keep(documents.age()));
        documents.end_change(&name("p"));
        assert!(!keep(before) && !keep(during));
        assert!(keep(documents.age()));
        documents.begin_change(&name("p"));
        assert_eq!(documents.get(&name("p"), None), None);
    }

    #[test]
    fn change_of_one_configuration_keeps_the_documents_of_others() {
        let (documents, json) = (DocumentCache::default(), Bytes::from_static(b"{}"));
        documents.keep(documents.age(), &name("p"), None, &json);
        documents.begin_change(&name("q"));
        assert_eq!(documents.get(&name("p"), None), Some(json.clone()));
        documents.keep(documents.age(), &name("r"), None, &json);
        assert_eq!(documents.get(&name("r"), None), Some(json));
    }

    #[test]
    fn document_is_valid_only_for_its_revision() {
        let documents = DocumentCache::default();
        let [old, new] = ["{}", "{\"new\":1}"].map(|json| Bytes::from_static(json.as_bytes()));
        documents.keep(documents.age(), &name("p"), Some(1), &old);
        assert_eq!(documents.get(&name("p"), Some(1)), Some(old));
        assert_eq!(documents.get(&name("p"), Some(2)), None);
        documents.keep(documents.age(), &name("p"), Some(2), &new);
        assert_eq!(documents.get(&name("p"), Some(1)), None);
        assert_eq!(documents.get(&name("p"), Some(2)), Some(new.clone()));
        assert_eq!(documents.kept().bytes, new.len());
    }

    #[test]
    fn cache_stays_within_its_limit() {
        let documents = DocumentCache::default();
        let large = Bytes::from(vec![b' '; MAX_BYTES / 2]);
        for n in 0..5 {
            documents.keep(documents.age(), &name(&format!("p{n}")), None, &large);
            let kept = documents.kept();
            assert_eq!(
                kept.by_name.values().map(|(_, json)| json.len()).sum::<usize>(),
                kept.bytes
            );
            assert!(kept.bytes <= MAX_BYTES);
        }
        let longer = Bytes::from(vec![b' '; MAX_BYTES + 1]);
        documents.keep(documents.age(), &name("q"), None, &longer);
        assert_eq!(documents.get(&name("q"), None), None);
        assert!(documents.get(&name("p4"), None).is_some());
    }
}
