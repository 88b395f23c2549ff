//! Follows the changes that other registries of the same catalogue make.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::hub::Fleet;

/// The shortest pause between two readings of the catalogue.
const PAUSE: Duration = Duration::from_millis(20);

/// Follows the changes until the future is dropped.
pub async fn follow(fleet: Arc<Fleet>) {
    let changes = &fleet.catalog.changes;
    let (mut others, mut hosts) = (changes.others(), changes.hosts());
    loop {
        tokio::select! {
            alive = others.changed() => {
                if alive.is_err() {
                    return;
                }
                if let Err(err) = fleet.reload().await {
                    tracing::warn!(event = "fleet_error", "cannot read what another registry changed: {err}");
                }
                tokio::time::sleep(PAUSE).await;
            }
            host = hosts.recv() => match host {
                Ok(Some(host)) => fleet.presence.signal_hosts(Some(&host)),
                Ok(None) | Err(RecvError::Lagged(_)) => fleet.presence.signal_hosts(None),
                Err(RecvError::Closed) => return,
            },
        }
    }
}
