//! Configurations as agents read them, kept in memory until something is changed. Agents ask
//! every few seconds and nearly always for what they have seen: this answer wants no
//! transaction.
//!
//! That nothing old is told rests on the one connection. Who changes something calls
//! [`Documents::forget`], and who reads asks for the [`Documents::age`], each while the connection
//! is his: what was read is kept only if nobody began to change since.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use deploy_store::ConfigurationName;

use crate::catalog::configurations::{current, load};
use crate::catalog::{Catalog, Result};

/// Bytes that are kept at most: thousands of configurations of usual size.
const MOST: usize = 32 << 20;

/// The documents of a catalogue.
#[derive(Debug, Default)]
pub(super) struct Documents(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    age: Age,
    bytes: usize,
    by_name: HashMap<ConfigurationName, Bytes>,
}

/// How many changes were begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Age(u64);

impl Catalog {
    /// The JSON form of the current state of a configuration.
    pub async fn configuration_json(&self, name: &ConfigurationName) -> Result<Bytes> {
        if let Some(json) = self.documents.get(name) {
            return Ok(json);
        }
        let mut transaction = self.look().await?;
        let age = self.documents.age();
        let number = current(&mut transaction, name).await?;
        let configuration = load(&mut transaction, name, number).await?;
        drop(transaction);
        let json = Bytes::from(configuration.to_json());
        self.documents.keep(age, name, &json);
        Ok(json)
    }
}

impl Documents {
    /// The document of a configuration, if it is kept.
    pub(super) fn get(&self, name: &ConfigurationName) -> Option<Bytes> {
        self.kept().by_name.get(name).cloned()
    }

    /// When this is: to be asked before what is to be kept is read.
    pub(super) fn age(&self) -> Age {
        self.kept().age
    }

    /// Keeps what was read at `age`.
    pub(super) fn keep(&self, age: Age, name: &ConfigurationName, json: &Bytes) {
        let mut kept = self.kept();
        if kept.age != age || json.len() > MOST || kept.by_name.contains_key(name) {
            return;
        }
        if kept.bytes + json.len() > MOST {
            // What is asked for comes back.
            kept.clear();
        }
        kept.bytes += json.len();
        kept.by_name.insert(name.clone(), json.clone());
    }

    /// Forgets all, as something may be changed from now on.
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
    fn what_was_read_before_a_change_began_is_not_kept() {
        let documents = Documents::default();
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
    fn no_more_is_kept_than_may_be() {
        let documents = Documents::default();
        let large = Bytes::from(vec![b' '; MOST / 2]);
        for n in 0..5 {
            documents.keep(documents.age(), &name(&format!("p{n}")), &large);
            let kept = documents.kept();
            assert_eq!(kept.by_name.values().map(Bytes::len).sum::<usize>(), kept.bytes);
            assert!(kept.bytes <= MOST);
        }
        documents.keep(documents.age(), &name("q"), &Bytes::from(vec![b' '; MOST + 1]));
        assert_eq!(documents.get(&name("q")), None);
        assert!(documents.get(&name("p4")).is_some());
    }
}
