//! Transactions that change the catalogue, and announce their changes to waiting tasks.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deploy_store::ConfigurationName;

use super::change_notices::Notice;
use super::change_signals::Changes;
use super::database::Database;
use super::database_error::{is_lost, not_committed};
use super::document_cache::DocumentCache;
use super::sharing::Sharing;
use super::tx::Tx;
use super::{Catalog, Result};
use crate::error::Error;

/// The pause between two tries to find out that a lost transaction has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// A transaction that may change the catalogue. Without a commit, it is undone.
#[derive(Debug)]
pub(super) struct WriteTx {
    // Rust drops fields in this order: first `transaction` is undone, then `changing` reports the
    // end.
    transaction: Tx,
    changing: Changing,
    /// The notice to the other registries of a shared catalogue.
    notice: Notice,
    sharing: Option<Arc<Sharing>>,
    database: Database,
    /// How many states with different trees stay rollback targets, for each configuration.
    pub(super) keep_states: usize,
    /// Whether the blobs are objects in a bucket.
    pub(super) has_objects: bool,
}

/// The configurations that a transaction changes. During the transaction, the cache keeps none of
/// the documents of these configurations.
#[derive(Debug)]
struct Changing {
    documents: Arc<DocumentCache>,
    changes: Arc<Changes>,
    names: Vec<ConfigurationName>,
    /// Whether the transaction changes a rollout.
    rollouts: bool,
}

impl Drop for Changing {
    fn drop(&mut self) {
        for name in &self.names {
            self.documents.end_change(name);
        }
    }
}

impl Changing {
    /// Announces the committed changes to the waiting tasks.
    fn announce(mut self) {
        let (changes, names) = (Arc::clone(&self.changes), std::mem::take(&mut self.names));
        for name in &names {
            self.documents.end_change(name);
        }
        changes.count_commit();
        if self.rollouts {
            changes.announce_rollouts();
        }
        for name in &names {
            changes.announce(name);
        }
    }

    /// Announces the changes if it is not known whether they were committed. The server still holds
    /// the lock of a transaction that it may commit, so the function waits for this lock. Until
    /// then, the cache keeps none of the documents.
    async fn announce_when_settled(self, database: Database) {
        while !database.is_closed() {
            if let Ok(transaction) = database.begin_write().await {
                drop(transaction);
                return self.announce();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl WriteTx {
    /// Wraps a transaction of `catalog` that has begun.
    pub(super) fn new(transaction: Tx, catalog: &Catalog) -> Self {
        let changing = Changing {
            documents: Arc::clone(&catalog.documents),
            changes: Arc::clone(&catalog.changes),
            names: Vec::new(),
            rollouts: false,
        };
        let (keep_states, has_objects) = (catalog.keep_states, catalog.has_objects);
        let (database, sharing) = (catalog.database.clone(), catalog.sharing.clone());
        let notice = Notice::default();
        Self { transaction, changing, notice, sharing, database, keep_states, has_objects }
    }

    /// Whether several registries may use the catalogue.
    pub(super) fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// Announces that the transaction changes the configuration `name`.
    pub(super) fn changes(&mut self, name: &ConfigurationName) {
        self.changing.documents.begin_change(name);
        self.changing.names.push(name.clone());
        self.notice.configurations.push(name.to_string());
    }

    /// Announces to other registries that the transaction changes a host.
    pub(super) fn changes_host(&mut self, name: &str) {
        self.notice.hosts.push(name.to_owned());
    }

    /// Announces to other registries that the transaction changes maintenance windows.
    pub(super) fn changes_windows(&mut self) {
        self.notice.windows = true;
    }

    /// Announces to other registries that the transaction writes reports or events.
    pub(super) fn writes_reports(&mut self) {
        self.notice.reports = true;
    }

    /// Announces that the transaction changes a rollout.
    pub(super) fn moves_rollout(&mut self) {
        self.changing.rollouts = true;
        self.notice.rollouts = true;
    }

    /// Commits, even if the caller stops waiting. After the commit, the cache keeps documents of
    /// the changed configurations again.
    pub(super) async fn commit(self) -> Result<()> {
        let Self { mut transaction, changing, notice, sharing, database, .. } = self;
        let committed = tokio::spawn(async move {
            if let Some(sharing) = sharing {
                sharing.send(&mut transaction, &notice).await?;
            }
            if let Err(err) = transaction.commit().await {
                if database.is_on_server() && is_lost(&err) {
                    tokio::spawn(changing.announce_when_settled(database));
                }
                return Err(not_committed(err));
            }
            changing.announce();
            Ok(())
        });
        match committed.await {
            Ok(committed) => committed,
            Err(err) => Err(Error::Failed(format!("catalogue: commit: {err}"))),
        }
    }

    /// Undoes the transaction.
    pub(super) async fn rollback(self) -> Result<()> {
        Ok(self.transaction.rollback().await?)
    }
}

impl Deref for WriteTx {
    type Target = Tx;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl DerefMut for WriteTx {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}
