//! A transaction that may change something.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deploy_store::ConfigurationName;
use sqlx::{Sqlite, Transaction};

use super::Result;
use super::document_cache::DocumentCache;
use crate::error::Error;

/// A transaction that may change something. It is undone unless it is committed.
#[derive(Debug)]
pub(super) struct WriteTx {
    // Before `changing`: it ends first.
    transaction: Transaction<'static, Sqlite>,
    changing: Changing,
    /// States of a configuration with different trees that stay targets of a rollback.
    pub(super) keep_states: usize,
}

/// The configurations that a transaction changes. No document of theirs is kept meanwhile.
#[derive(Debug)]
struct Changing {
    documents: Arc<DocumentCache>,
    names: Vec<ConfigurationName>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        for name in &self.names {
            self.documents.end_change(name);
        }
    }
}

impl WriteTx {
    /// Takes over a transaction that has begun.
    pub(super) fn new(
        transaction: Transaction<'static, Sqlite>,
        documents: Arc<DocumentCache>,
        keep_states: usize,
    ) -> Self {
        let changing = Changing { documents, names: Vec::new() };
        Self { transaction, changing, keep_states }
    }

    /// Says that the transaction changes the configuration `name`.
    pub(super) fn changes(&mut self, name: &ConfigurationName) {
        self.changing.documents.begin_change(name);
        self.changing.names.push(name.clone());
    }

    /// Commits it. If the caller does not wait for the end, it is committed all the same, and the
    /// documents of its configurations are kept again only then.
    pub(super) async fn commit(self) -> Result<()> {
        let Self { transaction, changing, .. } = self;
        let committed = tokio::spawn(async move {
            let committed = transaction.commit().await;
            drop(changing);
            committed
        });
        match committed.await {
            Ok(committed) => Ok(committed?),
            Err(err) => Err(Error::Failed(format!("catalogue: commit: {err}"))),
        }
    }

    /// Undoes it.
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
