//! Notifications between the registries that share a catalogue on a server. A notification wakes
//! the tasks that wait for a change. It carries no truth: who is woken reads the catalogue.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};

use super::changes::{Changes, Notice};
use super::tx::{Tx, query};

/// The longest notification, in bytes. `PostgreSQL` accepts less than 8,000.
const LONGEST: usize = 7900;
/// The pause before the next attempt to listen.
const PAUSE: Duration = Duration::from_secs(1);
/// The channel. Catalogues in other schemas of the same database have channels of their own.
const CHANNEL: &str = "SELECT 'deploy_registry_' || current_schema()";

/// Adds a notification to the transaction. The server sends it after the commit.
pub(super) async fn send(tx: &mut Tx, notice: Notice) -> sqlx::Result<()> {
    let mut text = serde_json::to_string(&notice).unwrap_or_default();
    if text.len() > LONGEST {
        let short = Notice { from: notice.from, all: true, ..Notice::default() };
        text = serde_json::to_string(&short).unwrap_or_default();
    }
    let notify = query("SELECT pg_notify('deploy_registry_' || current_schema(), $1)");
    notify.bind(text).execute(tx).await?;
    Ok(())
}

/// Listens on a connection of its own.
pub(super) async fn connect(pool: &PgPool) -> sqlx::Result<PgListener> {
    let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(pool).await?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(&channel).await?;
    Ok(listener)
}

/// Passes the notifications of other registries on, until the future is dropped. `own` is the id of
/// this catalogue.
pub(super) async fn pass_on(mut listener: PgListener, own: String, changes: Arc<Changes>) {
    loop {
        match listener.try_recv().await {
            Ok(Some(notification)) => {
                let notice = serde_json::from_str(notification.payload());
                // Another version of the program may say more than this version understands.
                let notice = notice.unwrap_or(Notice { all: true, ..Notice::default() });
                if notice.from != own {
                    changes.receive(&notice);
                }
            }
            // The connection was lost, and notifications with it.
            Ok(None) => changes.receive(&Notice { all: true, ..Notice::default() }),
            Err(err) => {
                tracing::warn!(event = "database_lost", "cannot wait for changes: {err}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
