//! A transaction that may change something.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deploy_store::ConfigurationName;
use sqlx::{Sqlite, Transaction};

use super::Result;
use super::changes::Changes;
use super::document_cache::DocumentCache;
use crate::error::Error;

/// A transaction that may change something. Without a commit, it is undone.
#[derive(Debug)]
pub(super) struct WriteTx {
    // This field stands before `changing`, so that Rust drops it first.
    transaction: Transaction<'static, Sqlite>,
    changing: Changing,
    /// How many states of a configuration, with different trees, stay rollback targets.
    pub(super) keep_states: usize,
}

/// The configurations that a transaction changes. During the transaction, the cache keeps none of
/// their documents.
#[derive(Debug)]
struct Changing {
    documents: Arc<DocumentCache>,
    changes: Arc<Changes>,
    names: Vec<ConfigurationName>,
    /// The configurations whose rollouts the transaction changes.
    rollouts: Vec<ConfigurationName>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        for name in &self.names {
            self.documents.end_change(name);
        }
    }
}

impl WriteTx {
    /// Wraps a transaction that has begun.
    pub(super) fn new(
        transaction: Transaction<'static, Sqlite>,
        documents: Arc<DocumentCache>,
        changes: Arc<Changes>,
        keep_states: usize,
    ) -> Self {
        let changing = Changing { documents, changes, names: Vec::new(), rollouts: Vec::new() };
        Self { transaction, changing, keep_states }
    }

    /// Announces that the transaction changes the configuration `name`.
    pub(super) fn changes(&mut self, name: &ConfigurationName) {
        self.changing.documents.begin_change(name);
        self.changing.names.push(name.clone());
    }

    /// Announces that the transaction changes the rollout of the configuration `name`.
    pub(super) fn moves_rollout(&mut self, name: &ConfigurationName) {
        self.changing.rollouts.push(name.clone());
    }

    /// Commits, even if the caller stops waiting. After the commit, the cache keeps documents of
    /// the changed configurations again.
    pub(super) async fn commit(self) -> Result<()> {
        let Self { transaction, changing, .. } = self;
        let committed = tokio::spawn(async move {
            let committed = transaction.commit().await;
            let (changes, names) = (Arc::clone(&changing.changes), changing.names.clone());
            let rollouts = changing.rollouts.clone();
            drop(changing);
            if committed.is_ok() {
                changes.count_commit();
                if !rollouts.is_empty() {
                    changes.announce_rollouts();
                }
                for name in &names {
                    changes.announce(name);
                }
            }
            committed
        });
        match committed.await {
            Ok(committed) => Ok(committed?),
            Err(err) => Err(Error::Failed(format!("catalogue: commit: {err}"))),
        }
    }

    /// Undoes the transaction.
    pub(super) async fn rollback(self) -> Result<()> {
        Ok(self.transaction.rollback().await?)
    }
}

impl Deref for WriteTx {
    type Target = Transaction<'static, Sqlite>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl DerefMut for WriteTx {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}
