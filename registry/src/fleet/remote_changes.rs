//! Wakes the tasks of this registry after changes that other registries of a shared catalogue made.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::contact_exchange;
use super::hub::Fleet;
use crate::catalog::Notice;
use crate::error::Result;

/// The pause after an error of the catalogue.
const PAUSE: Duration = Duration::from_secs(1);

/// Handles the notices of other registries until the catalogue is closed.
async fn follow(fleet: Weak<Fleet>, mut notices: Receiver<Arc<Notice>>) {
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(_)) => Arc::new(Notice { everything: true, ..Notice::default() }),
            Err(RecvError::Closed) => return,
        };
        loop {
            let Some(fleet) = fleet.upgrade().filter(|fleet| !*fleet.stopped().borrow()) else {
                return;
            };
            match fleet.wake_after(&notice).await {
                Ok(()) => break,
                Err(err) => tracing::debug!("cannot follow another registry yet: {err}"),
            }
            drop(fleet);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Fleet {
    /// Follows the other registries of a shared catalogue. The caller got `notices` before it opened
    /// the fleet.
    pub fn share(self: &Arc<Self>, notices: Receiver<Arc<Notice>>) {
        self.presence.share();
        let contacts = (Arc::downgrade(&self.presence), Arc::downgrade(&self.polls));
        tokio::spawn(contact_exchange::run(self.catalog.clone(), contacts, self.mark));
        tokio::spawn(follow(Arc::downgrade(self), notices));
    }

    /// Wakes the watches and the other tasks that wait for what `notice` says.
    async fn wake_after(&self, notice: &Notice) -> Result<()> {
        if notice.everything || !notice.hosts.is_empty() {
            self.reload_holds().await?;
        }
        if notice.everything || notice.windows {
            self.reload_windows().await?;
        }
        if notice.everything {
            self.presence.signal_all(|_| true);
        }
        for host in &notice.hosts {
            self.presence.signal_host(host);
        }
        self.count_written();
        Ok(())
    }
}
