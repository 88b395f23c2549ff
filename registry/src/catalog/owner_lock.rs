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
use tokio::sync::Mutex;

use super::Result;
use super::database::{ANSWER_WAIT, SERVER_WAIT};
use super::database_error::no_server;
use super::tx::answered;

/// The query that takes the lock. Each schema of a database may have a catalogue of its own.
const LOCK: &str =
    "SELECT pg_try_advisory_lock(hashtext('deploy-registry owner ' || current_schema()))";
/// How many times a registry tries to take the lock at its start, and the pause between two tries.
/// After a registry is killed, the server may release the lock only after some time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);
/// How often the registry checks the lock's connection.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// The lock. The connection is missing after [`OwnerLock::release`].
#[derive(Debug)]
pub(super) struct OwnerLock(Mutex<Option<PgConnection>>);

impl OwnerLock {
    /// Takes the lock, and takes it again whenever its connection is lost.
    pub(super) async fn take(options: &PgConnectOptions) -> Result<Arc<Self>> {
        let mut connection = connect(options).await.map_err(|err| no_server(&err))?;
        for _ in 0..TRIES {
            if lock(&mut connection).await.map_err(|err| no_server(&err))? {
                let owner = Arc::new(Self(Mutex::new(Some(connection))));
                tokio::spawn(keep(Arc::downgrade(&owner), options.clone()));
                return Ok(owner);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(no_server(&"another registry uses this catalogue; stop that registry first"))
    }

    /// Releases the lock.
    pub(super) async fn release(&self) {
        if let Some(connection) = self.0.lock().await.take() {
            // If the connection does not close, the server ends the session when the process ends.
            let _ = answered(ANSWER_WAIT, connection.close()).await;
        }
    }
}

/// Checks the lock's connection until the lock is released.
async fn keep(owner: Weak<OwnerLock>, options: PgConnectOptions) {
    let mut is_lost = false;
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        let Some(owner) = owner.upgrade() else { return };
        let mut guard = owner.0.lock().await;
        let Some(connection) = guard.as_mut() else { return };
        if answered(ANSWER_WAIT, connection.ping()).await.is_ok() {
            if std::mem::take(&mut is_lost) {
                back();
            }
            continue;
        }
        if !std::mem::replace(&mut is_lost, true) {
            tracing::error!(
                event = "catalogue_lost",
                "the database server does not answer; until it does, the registry refuses changes"
            );
        }
        let again = async {
            let mut again = connect(&options).await?;
            Ok::<_, sqlx::Error>(lock(&mut again).await?.then_some(again))
        };
        // If the server is still lost or another registry has the lock, the next round tries again.
        if let Ok(Some(again)) = again.await {
            *connection = again;
            is_lost = false;
            back();
        }
    }
}

fn back() {
    tracing::info!(event = "catalogue_back", "the database server answers again");
}

async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    answered(SERVER_WAIT, Box::pin(PgConnection::connect_with(options))).await
}

async fn lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    answered(SERVER_WAIT, sqlx::query_scalar(LOCK).fetch_one(connection)).await
}
