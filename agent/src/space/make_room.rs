//! Implements `-min-free`: makes room by removing data, and begins with the data that is cheapest
//! to recreate. First the agent removes unused cache. Then it removes old roots, oldest first, each
//! with the cache that only this root used. Last, it removes the spare. The agent never removes the
//! current root or the data of the configuration that it is deploying.

use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::{Configuration, Keep, Result as StoreResult, Size, Sweep, What, plural};

use crate::agent::Agent;
use crate::blocking;
use crate::error::{Error, Lack, Result};
use crate::space::{in_use, spare_builder};

/// Number of bytes that a file may take on the disk in addition to its contents.
const BLOCK: u64 = 4096;

/// Makes room for `need` bytes, which the deploy of `coming` needs for `what`. In addition, the
/// bytes of `-min-free` must stay free. If the agent cannot make enough room, the result is an
/// error.
pub async fn make(agent: &Agent, coming: &Configuration, what: &str, need: u64) -> Result<()> {
    let floor = agent.min_free;
    let mut free = agent.store.free_bytes()?;
    let wanted = need.saturating_add(floor);
    // If the agent cannot make enough room, it removes nothing, because a rollback may need the
    // data.
    if floor > 0 && free < wanted && most_free(agent, coming, free).await? >= wanted {
        free = free_best_effort(agent, Some(coming), need).await?;
    }
    if floor > 0 && free < wanted {
        return Err(Error::NoRoom { what: what.to_owned(), need, free, floor });
    }
    Ok(())
}

/// If `err` means that the filesystem is full, adds whether bytes, inodes or a quota are used up.
/// `need` is the number of bytes that remain to be downloaded, if a download failed.
pub fn explain_full(agent: &Agent, err: Error, need: Option<u64>) -> Error {
    if !err.is_no_space() {
        return err;
    }
    let (cause, quota) = (err.to_string(), err.is_over_quota());
    let lack = match rustix::fs::statvfs(&agent.dir) {
        _ if quota => Lack::Quota,
        Ok(stat) if stat.f_files > 0 && stat.f_favail == 0 => Lack::Files,
        Ok(stat) => Lack::Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(_) => Lack::Bytes(0),
    };
    Error::Full { cause, lack, need }
}

/// Makes room after a deploy. If the sweep fails, the agent only logs the error.
pub async fn tidy(agent: &Agent) {
    match free_best_effort(agent, None, 0).await {
        Ok(free) if free < agent.min_free => {
            let floor = agent.min_free;
            tracing::warn!(
                event = "room_lacking",
                free,
                floor,
                "{} are free, -min-free is {}, and there is nothing left to remove",
                Size(free),
                Size(floor)
            );
        }
        Ok(_) => {}
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot make room: {err}"),
    }
}

/// The number of bytes that would be free after the removal of all dispensable data.
async fn most_free(agent: &Agent, coming: &Configuration, free: u64) -> StoreResult<u64> {
    spare_builder::idle(agent).await;
    let needs = in_use::retention(agent, Some(coming))?;
    let store = Arc::clone(&agent.store);
    blocking::run(move || {
        let keep = needs.for_room(&store.roots()?, 1, SystemTime::now());
        let planned = store.plan_sweep(&keep)?;
        let blocks = planned.files().saturating_mul(BLOCK);
        Ok(free.saturating_add(planned.bytes() + store.spare_bytes()).saturating_add(blocks))
    })
    .await
}

/// Removes dispensable data until enough bytes are free, or until no such data is left. Returns the
/// number of bytes that are free afterwards.
async fn free_best_effort(
    agent: &Agent,
    coming: Option<&Configuration>,
    need: u64,
) -> StoreResult<u64> {
    let wanted = agent.min_free.saturating_add(need);
    let mut free = agent.store.free_bytes()?;
    if agent.min_free == 0 || free >= wanted {
        return Ok(free);
    }
    spare_builder::idle(agent).await;
    let needs = in_use::retention(agent, coming)?;
    let published = agent.store.roots()?;
    for roots in (1..=published.len().max(1)).rev() {
        free = sweep(agent, needs.for_room(&published, roots, SystemTime::now()), free).await?;
        if free >= wanted {
            return Ok(free);
        }
    }
    if spare_builder::remove(agent).await? {
        let before = free;
        free = free_after_sync(agent).await?;
        let freed = free.saturating_sub(before);
        tracing::info!(
            event = "room_made",
            freed,
            free,
            "made room: removed the spare root; {} are free",
            Size(free)
        );
    }
    Ok(free)
}

async fn sweep(agent: &Agent, keep: Keep, free: u64) -> StoreResult<u64> {
    let store = Arc::clone(&agent.store);
    let sweep = move || {
        let planned = store.plan_sweep(&keep)?;
        let stuck = store.sweep(&planned)?;
        Ok::<_, deploy_store::Error>(planned.without(stuck))
    };
    let planned = blocking::run(sweep).await?;
    if planned.files() == 0 {
        return Ok(free);
    }
    let free = free_after_sync(agent).await?;
    let (files, freed, what) = (planned.files(), planned.bytes(), describe(&planned));
    tracing::info!(
        event = "room_made",
        files,
        freed,
        free,
        "made room: removed {what} (in all {}, {}); {} are free",
        plural(files, "file"),
        Size(freed),
        Size(free)
    );
    Ok(free)
}

/// Returns the number of free bytes after the removals have reached the disk.
async fn free_after_sync(agent: &Agent) -> StoreResult<u64> {
    let store = Arc::clone(&agent.store);
    blocking::run(move || {
        store.sync_roots()?;
        store.free_bytes()
    })
    .await
}

/// Describes the removals as text, for example `root 1a2b…, 2 layers, 14 objects`.
fn describe(planned: &Sweep) -> String {
    let mut parts = Vec::new();
    for removal in planned.removals.iter().filter(|removal| removal.what == What::Root) {
        let id = removal.path.file_name().unwrap_or_default().to_string_lossy();
        parts.push(format!("root {id}"));
    }
    for what in [What::Layer, What::Object, What::Blob, What::Download, What::Quarantined] {
        let noun = if what == What::Quarantined { "quarantined file" } else { what.word() };
        match planned.count(what) as u64 {
            0 => {}
            n => parts.push(plural(n, noun)),
        }
    }
    parts.join(", ")
}
