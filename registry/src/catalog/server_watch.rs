//! Watches the database server: a connection of its own shows whether the server answers. The same
//! connection holds the lock of `owner_lock.rs`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Mutex, watch};

use super::Result;
use super::database_error::no_server;
use super::owner_lock::{self, Tenancy};
use super::tx::{ANSWER_WAIT, Patience, SERVER_WAIT, answered};

/// How often the registry checks the connection, and how often while the server is lost.
const CHECK_EVERY: Duration = Duration::from_secs(5);
const CHECK_LOST_EVERY: Duration = Duration::from_secs(1);

/// The watch.
#[derive(Debug)]
pub(super) struct ServerWatch {
    /// The connection that holds the lock. It is missing after [`ServerWatch::end`].
    connection: Mutex<Option<PgConnection>>,
    tenancy: Tenancy,
    /// Whether the server is lost: it ends connections or does not answer, and cannot be reached.
    lost: watch::Sender<bool>,
}

impl ServerWatch {
    /// Connects and takes the lock. Whenever the connection is lost, connects and takes the lock
    /// again.
    pub(super) async fn begin(options: &PgConnectOptions, tenancy: Tenancy) -> Result<Arc<Self>> {
        let mut connection = connect(options).await.map_err(|err| no_server(&err))?;
        owner_lock::take(&mut connection, tenancy).await?;
        let (lost, connection) = (watch::Sender::new(false), Mutex::new(Some(connection)));
        let watch = Arc::new(Self { connection, tenancy, lost });
        tokio::spawn(keep(Arc::downgrade(&watch), options.clone()));
        Ok(watch)
    }

    /// How long a transaction waits for a statement that may take the server as long as `limit`.
    pub(super) fn patience(&self, limit: Duration) -> Patience {
        Patience { limit: limit + ANSWER_WAIT, lost: self.lost.subscribe() }
    }

    /// Releases the lock, and ends the watch.
    pub(super) async fn end(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // If the connection does not close, the server ends the session when the process ends.
            let _ = answered(ANSWER_WAIT, connection.close()).await;
        }
    }

    /// Records whether the server is lost, and logs a change.
    fn is_lost(&self, lost: bool) {
        if self.lost.send_replace(lost) == lost {
            return;
        }
        if lost {
            tracing::error!(
                event = "catalogue_lost",
                "the database does not answer; until it does, the registry refuses changes"
            );
        } else {
            tracing::info!(event = "catalogue_back", "the database answers again");
        }
    }
}

/// Checks the connection until the watch ends.
async fn keep(watch: Weak<ServerWatch>, options: PgConnectOptions) {
    let mut pause = CHECK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let Some(watch) = watch.upgrade() else { return };
        let mut guard = watch.connection.lock().await;
        let Some(connection) = guard.as_mut() else { return };
        let is_lost = match answered(ANSWER_WAIT, connection.ping()).await {
            Ok(()) => false,
            Err(_) => {
                match answered(ANSWER_WAIT, connect_and_lock(&options, watch.tenancy)).await {
                    Ok(Some(again)) => {
                        *connection = again;
                        false
                    }
                    // Another registry has the lock, or the server still has the old connection.
                    Ok(None) => false,
                    Err(_) => true,
                }
            }
        };
        watch.is_lost(is_lost);
        pause = if is_lost { CHECK_LOST_EVERY } else { CHECK_EVERY };
    }
}

/// A new connection, if it has the lock.
async fn connect_and_lock(
    options: &PgConnectOptions,
    tenancy: Tenancy,
) -> sqlx::Result<Option<PgConnection>> {
    let mut connection = connect(options).await?;
    Ok(owner_lock::try_take(&mut connection, tenancy).await?.then_some(connection))
}

async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    answered(SERVER_WAIT, Box::pin(PgConnection::connect_with(options))).await
}
