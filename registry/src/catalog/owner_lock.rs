//! The lock that a registry holds on its catalogue on a server, so that a second registry refuses the
//! catalogue. The blobs are in the directory of one registry, so the second registry would not find
//! them.
//!
//! The server releases the lock when the lock's connection ends, as it does when the server
//! restarts. The registry then takes the lock again. If another registry was faster, that registry
//! has the catalogue, and this registry can change nothing (see the note `owner` in `catalog.rs`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Mutex, watch};

use super::Result;
use super::database::{ANSWER_WAIT, SERVER_WAIT};
use super::database_error::no_server;
use super::tx::{Patience, answered};

/// The query that takes the lock. Each schema of a database may have a catalogue of its own.
const LOCK: &str =
    "SELECT pg_try_advisory_lock(hashtext('deploy-registry owner ' || current_schema()))";
/// How many times a registry tries to take the lock at its start, and the pause between two tries.
/// After a registry is killed, the server may release the lock only after some time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);
/// How often the registry checks the lock's connection, and how often while the server is lost.
const CHECK_EVERY: Duration = Duration::from_secs(5);
const CHECK_LOST_EVERY: Duration = Duration::from_secs(1);

/// The lock.
#[derive(Debug)]
pub(super) struct OwnerLock {
    /// The connection that holds the lock. It is missing after [`OwnerLock::release`].
    connection: Mutex<Option<PgConnection>>,
    /// Whether the server is lost: it ends connections or does not answer, and cannot be reached.
    lost: watch::Sender<bool>,
}

impl OwnerLock {
    /// Takes the lock, and takes it again whenever its connection is lost.
    pub(super) async fn take(options: &PgConnectOptions) -> Result<Arc<Self>> {
        let mut connection = connect(options).await.map_err(|err| no_server(&err))?;
        for _ in 0..TRIES {
            if lock(&mut connection).await.map_err(|err| no_server(&err))? {
                let (lost, connection) = (watch::Sender::new(false), Mutex::new(Some(connection)));
                let owner = Arc::new(Self { connection, lost });
                tokio::spawn(keep(Arc::downgrade(&owner), options.clone()));
                return Ok(owner);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(no_server(&"another registry uses this catalogue; stop that registry first"))
    }

    /// How long a transaction waits for a statement that may take the server as long as `limit`.
    pub(super) fn patience(&self, limit: Duration) -> Patience {
        Patience { limit: limit + ANSWER_WAIT, lost: self.lost.subscribe() }
    }

    /// Releases the lock.
    pub(super) async fn release(&self) {
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

/// Checks the lock's connection until the lock is released.
async fn keep(owner: Weak<OwnerLock>, options: PgConnectOptions) {
    let mut pause = CHECK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let Some(owner) = owner.upgrade() else { return };
        let mut guard = owner.connection.lock().await;
        let Some(connection) = guard.as_mut() else { return };
        let is_lost = match answered(ANSWER_WAIT, connection.ping()).await {
            Ok(()) => false,
            Err(_) => match answered(ANSWER_WAIT, connect_and_lock(&options)).await {
                Ok(Some(again)) => {
                    *connection = again;
                    false
                }
                // Another registry has the lock, or the server still has the old connection.
                Ok(None) => false,
                Err(_) => true,
            },
        };
        owner.is_lost(is_lost);
        pause = if is_lost { CHECK_LOST_EVERY } else { CHECK_EVERY };
    }
}

/// A new connection, if it has the lock.
async fn connect_and_lock(options: &PgConnectOptions) -> sqlx::Result<Option<PgConnection>> {
    let mut connection = connect(options).await?;
    Ok(lock(&mut connection).await?.then_some(connection))
}

async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    answered(SERVER_WAIT, Box::pin(PgConnection::connect_with(options))).await
}

async fn lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    answered(SERVER_WAIT, sqlx::query_scalar(LOCK).fetch_one(connection)).await
}
