//! What a registry needs to share its catalogue with other registries: its id, and the channel on
//! which the registries notify each other.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::broadcast;

use super::change_notices::Notice;
use super::change_signals::Changes;
use super::database::{Database, Server};
use super::registry_rows::Described;
use super::tx::query_scalar;
use super::{Result, heartbeat, listener};

/// How many notices of other registries may wait for the tasks of this registry. A task that is
/// later than this gets a notice that anything may have changed.
const WAITING: usize = 1000;

/// The query for the name of the channel. Each schema of a database may have a catalogue of its own.
const CHANNEL: &str = "SELECT 'deploy_registry_' || \
     CAST(CAST(hashtext(current_schema()) AS BIGINT) + 2147483648 AS TEXT)";

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
    /// Adds the registry `id` to the registries of the catalogue, and starts its heartbeat and its
    /// listener. They end when the value is dropped or the database is closed.
    pub(super) async fn begin(
        database: &Database,
        id: &str,
        changes: &Arc<Changes>,
    ) -> Result<Option<Arc<Self>>> {
        let Some(server) = database.server() else { return Ok(None) };
        let channel = query_scalar(CHANNEL).fetch_one(&mut database.begin_read().await?).await?;
        let sharing = Arc::new(Self {
            id: id.to_owned(),
            channel,
            described: RwLock::default(),
            server: server.clone(),
            is_stopping: AtomicBool::new(false),
            notices: broadcast::channel(WAITING).0,
            changes: Arc::clone(changes),
        });
        heartbeat::begin(&sharing).await?;
        listener::begin(&sharing).await?;
        Ok(Some(sharing))
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
