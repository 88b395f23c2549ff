//! What a registry needs to share its catalogue with other registries: its id, and the channel on
//! which the registries notify each other.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::broadcast;

use super::Result;
use super::change_notices::Notice;
use super::change_signals::Changes;
use super::database::{Database, Server};
use super::tx::{Tx, query, query_scalar};

/// How many notices of other registries may wait for the tasks of this registry. A task that is
/// later than this gets a notice that anything may have changed.
const WAITING: usize = 1000;

/// The query for the name of the channel. Each schema of a database may have a catalogue of its own.
const CHANNEL: &str = "SELECT 'deploy_registry_' || \
     CAST(CAST(hashtext(current_schema()) AS BIGINT) + 2147483648 AS TEXT)";

/// What a registry says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// The address at which the registry listens for ssh.
    pub address: String,
    /// The version of the program.
    pub version: String,
    /// The fingerprint of the host key.
    pub host_key: String,
    /// The digest of the operators' key file.
    pub operators: String,
    /// The digest of the agents' key file.
    pub services: String,
}

/// A registry that shares its catalogue.
#[derive(Debug)]
pub(super) struct Sharing {
    /// The id of the registry in the table `registries`.
    pub(super) id: String,
    /// The name of the channel for notices.
    pub(super) channel: String,
    /// What the row of the registry says about the registry.
    pub(super) described: RwLock<Described>,
    /// The connections.
    pub(super) server: Server,
    /// Whether the registry ends. From then on, each heartbeat says so.
    pub(super) is_stopping: AtomicBool,
    notices: broadcast::Sender<Arc<Notice>>,
    changes: Arc<Changes>,
}

impl Sharing {
    /// The registry `id`. `None` if the database is in a file.
    pub(super) async fn of(
        database: &Database,
        id: &str,
        changes: &Arc<Changes>,
    ) -> Result<Option<Arc<Self>>> {
        let Some(server) = database.server() else { return Ok(None) };
        let channel = query_scalar(CHANNEL).fetch_one(&mut database.begin_read().await?).await?;
        Ok(Some(Arc::new(Self {
            id: id.to_owned(),
            channel,
            described: RwLock::default(),
            server: server.clone(),
            is_stopping: AtomicBool::new(false),
            notices: broadcast::channel(WAITING).0,
            changes: Arc::clone(changes),
        })))
    }

    /// Adds a notice to a transaction. The server sends it when the transaction is committed, in the
    /// order of the commits. The numbers of transactions with a notice have no gaps.
    pub(super) async fn send(&self, transaction: &mut Tx, notice: &Notice) -> Result<()> {
        if notice.is_empty() {
            return Ok(());
        }
        query(
            "UPDATE counters SET value = value + 1 WHERE name = 'signal' \
             RETURNING CAST(pg_notify($1, CAST(value AS TEXT) || ' ' || $2) AS TEXT)",
        )
        .bind(&self.channel)
        .bind(notice.text(&self.id))
        .execute(transaction)
        .await?;
        Ok(())
    }

    /// A receiver of the notices of other registries.
    pub(super) fn notices(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.notices.subscribe()
    }

    /// Wakes the tasks of this registry after a change by another registry.
    pub(super) fn wake(&self, notice: Notice) {
        self.changes.count_commit();
        if notice.everything {
            self.changes.announce_everything();
        }
        if notice.everything || notice.rollouts {
            self.changes.announce_rollouts();
        }
        for name in notice.configurations.iter().filter_map(|name| name.parse().ok()) {
            self.changes.announce(&name);
        }
        // Without a receiver, no task waits.
        let _ = self.notices.send(Arc::new(notice));
    }

    /// What the row of the registry says about the registry.
    pub(super) fn described(&self) -> Described {
        self.described.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
