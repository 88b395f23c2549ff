//! The lock that a registry holds on its catalogue on a server. A registry with its blobs in a
//! directory takes the lock alone, so that a second registry refuses the catalogue: the second
//! registry would not find the blobs. Registries that share the catalogue and a bucket share the
//! lock, too.
//!
//! The server releases the lock when the lock's connection ends, as it does when the server
//! restarts. The registry then takes the lock again. If a registry without the bucket was faster,
//! that registry has the catalogue, and this registry can change nothing (see the note `owner` in
//! `catalog.rs`).

use std::time::Duration;

use sqlx::PgConnection;

use super::database_error::no_server;
use super::tx::{SERVER_WAIT, answered};
use super::{Error, Result};

/// The queries that take the lock. Each schema of a database may have a catalogue of its own.
const LOCK_ALONE: &str =
    "SELECT pg_try_advisory_lock(hashtext('deploy-registry owner ' || current_schema()))";
const LOCK_SHARED: &str =
    "SELECT pg_try_advisory_lock_shared(hashtext('deploy-registry owner ' || current_schema()))";
/// How many times a registry tries to take the lock at its start, and the pause between two tries.
/// After a registry is killed, the server may release the lock only after some time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// How many registries use a catalogue on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenancy {
    /// One. Its blobs are in its directory.
    Alone,
    /// Any number. Their blobs are in one bucket.
    Shared,
}

/// Takes the lock with this connection, at the start of a registry.
pub(super) async fn take(connection: &mut PgConnection, tenancy: Tenancy) -> Result<()> {
    for _ in 0..TRIES {
        if try_take(connection, tenancy).await.map_err(|err| no_server(&err))? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let why = match tenancy {
        Tenancy::Alone => "another registry uses this catalogue; stop that registry first",
        Tenancy::Shared => {
            "another registry uses this catalogue without a bucket, or a migration of this \
             catalogue runs; stop the registry, or wait for the migration"
        }
    };
    Err(Error::Conflict(format!(
        "open catalogue on the database server: {why}; nothing was changed"
    )))
}

/// Takes the lock, if it is free.
pub(super) async fn try_take(
    connection: &mut PgConnection,
    tenancy: Tenancy,
) -> sqlx::Result<bool> {
    let lock = match tenancy {
        Tenancy::Alone => LOCK_ALONE,
        Tenancy::Shared => LOCK_SHARED,
    };
    answered(SERVER_WAIT, sqlx::query_scalar(lock).fetch_one(connection)).await
}
