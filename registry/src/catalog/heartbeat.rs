//! The heartbeat of a registry that shares its catalogue: a small statement, every two seconds. A
//! registry without a heartbeat for some time counts as away.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::sharing::{Described, Sharing};
use super::tx::{Query, SERVER_NOW, query};
use super::{Result, nanoseconds_of, single_statement};

/// The time between two heartbeats.
const EVERY: Duration = Duration::from_secs(2);
/// How long the rows of a registry without a heartbeat are kept, and how often old rows are removed.
const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const REMOVE_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long the row of a registry is kept that ended before it had an address, because its start
/// failed.
const KEEP_FAILED: Duration = Duration::from_secs(60);

/// Writes the first heartbeat, and starts the others. They end when the catalogue is closed.
pub(super) async fn begin(sharing: &Arc<Sharing>) -> Result<()> {
    beat(sharing).await?;
    remove_old(sharing).await?;
    tokio::spawn(run(Arc::downgrade(sharing)));
    Ok(())
}

async fn run(sharing: Weak<Sharing>) {
    let mut beats = interval(EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut removed = Instant::now();
    loop {
        beats.tick().await;
        let Some(sharing) = sharing.upgrade().filter(|sharing| !sharing.server.is_closed()) else {
            return;
        };
        // If the server does not answer, the log says so already.
        let mut done = beat(&sharing).await;
        if done.is_ok() && removed.elapsed() >= REMOVE_EVERY {
            done = remove_old(&sharing).await;
            removed = Instant::now();
        }
        if let Err(err) = done {
            tracing::debug!("no heartbeat: {err}");
        }
    }
}

/// Writes a heartbeat. After a long absence, the row may be missing, so the statement can add it.
pub(super) async fn beat(sharing: &Sharing) -> Result<()> {
    single_statement::execute(&sharing.server, statement(sharing)).await?;
    Ok(())
}

/// Records that the registry ends.
pub(super) async fn stop(sharing: &Sharing) -> Result<()> {
    sharing.is_stopping.store(true, Ordering::SeqCst);
    beat(sharing).await
}

fn statement(sharing: &Sharing) -> Query<()> {
    let Described { address, version, host_key, operators, services } = sharing.described();
    let sql = format!(
        "INSERT INTO registries (id, address, version, host_key, operators, services, started, \
         heartbeat, stopped) VALUES ($1, $2, $3, $4, $5, $6, {SERVER_NOW}, {SERVER_NOW}, $7) \
         ON CONFLICT (id) DO UPDATE SET address = $2, version = $3, host_key = $4, operators = $5, \
         services = $6, heartbeat = {SERVER_NOW}, stopped = $7"
    );
    query(sqlx::AssertSqlSafe(sql))
        .bind(&sharing.id)
        .bind(address)
        .bind(version)
        .bind(host_key)
        .bind(operators)
        .bind(services)
        .bind(sharing.is_stopping.load(Ordering::SeqCst))
}

/// Removes the rows of registries that are away for very long, and old contacts.
async fn remove_old(sharing: &Sharing) -> Result<()> {
    for (table, column) in
        [("registries", "heartbeat"), ("contacts", "written"), ("polls", "written")]
    {
        // A connected agent has no newer row while it stays connected.
        let except = if table == "contacts" {
            "AND NOT (connected AND registry IN (SELECT id FROM registries))"
        } else {
            ""
        };
        let sql = format!("DELETE FROM {table} WHERE {column} < {SERVER_NOW} - $1 {except}");
        let old = query(sqlx::AssertSqlSafe(sql)).bind(nanoseconds_of(KEEP));
        single_statement::execute(&sharing.server, old).await?;
    }
    let sql =
        format!("DELETE FROM registries WHERE address = '' AND heartbeat < {SERVER_NOW} - $1");
    let failed = query(sqlx::AssertSqlSafe(sql)).bind(nanoseconds_of(KEEP_FAILED));
    single_statement::execute(&sharing.server, failed).await?;
    Ok(())
}
