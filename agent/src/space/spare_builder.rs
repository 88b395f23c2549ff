//! Makes the spare root in the background after a switch. With a spare, the next deploy only has to
//! place the changed files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use deploy_store::{Configuration, Digest, Result, Size, SpareOutcome, Store};

use crate::agent::{Agent, Busy};
use crate::blocking;
use crate::log::millis;
use crate::records::agent_report::Spare;

/// The nice value of the thread that makes a spare. This value is the lowest priority, because
/// everything else is more urgent than a spare.
const NICE: i32 = 19;

/// Pause between two checks whether a spare is still being made.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes the spare, and returns whether there was a spare. Call this function only while no spare
/// is being made. The next cycle makes a new spare.
pub async fn remove(agent: &Agent) -> Result<bool> {
    let Some(spares) = &agent.spares else { return Ok(false) };
    let (store, report) = (Arc::clone(&agent.store), agent.report.clone());
    let remove = move || {
        let removed = store.remove_spare()?;
        if removed {
            report.update(|report| report.spare = None);
        }
        Ok(removed)
    };
    let removed = blocking::run(remove).await?;
    if removed {
        *spares.wanted.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    Ok(removed)
}

/// Waits until no spare is being made.
pub async fn idle(agent: &Agent) {
    let Some(spares) = &agent.spares else { return };
    while spares.busy.load(Ordering::Acquire) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Starts to make the spare of the deployed `configuration`, unless the agent has already begun to
/// make this spare. While the agent makes another spare, the function does nothing. In this case,
/// the next deploy may find a spare of an older configuration, and then has to place a few more
/// files.
pub fn prepare(agent: &Agent, configuration: &Configuration) {
    let Some(spares) = &agent.spares else { return };
    let (id, floor) = (configuration.id(), agent.min_free);
    if floor > 0 && agent.store.free_bytes().is_ok_and(|free| free < floor) {
        // A spare would take room that the agent must keep free, and the agent would have to remove
        // the spare again.
        return;
    }
    let mut wanted = spares.wanted.lock().unwrap_or_else(PoisonError::into_inner);
    if *wanted == Some(id) || spares.busy.swap(true, Ordering::AcqRel) {
        return;
    }
    *wanted = Some(id);
    let (busy, store) = (Busy(Arc::clone(&spares.busy)), Arc::clone(&agent.store));
    let (configuration, report) = (configuration.clone(), agent.report.clone());
    let confinement = agent.confinement.clone();
    let work = move || {
        let _busy = busy;
        confinement.enter();
        let ready = make(&store, &configuration) && fits(&store, floor, id);
        let id = configuration.id().to_string();
        report.update(|report| report.spare = ready.then_some(Spare { id, ready }));
    };
    // The work needs a thread of its own, because the low priority and the sandbox of a thread
    // cannot be undone.
    if let Err(err) = std::thread::Builder::new().name("spare".to_owned()).spawn(work) {
        tracing::warn!(event = "spare_failed", %id, "no spare root: cannot start a thread: {err}");
    }
}

/// Removes the spare if it leaves less than `floor` bytes free. Returns whether the spare stays.
fn fits(store: &Store, floor: u64, id: Digest) -> bool {
    if floor == 0 || store.free_bytes().is_ok_and(|free| free >= floor) {
        return true;
    }
    match store.remove_spare() {
        Ok(_) => {
            tracing::warn!(
                event = "spare_refused",
                %id,
                "no spare root: a spare root would take the room that -min-free keeps free"
            );
        }
        Err(err) => {
            tracing::warn!(event = "spare_failed", %id, "cannot remove the spare root: {err}");
        }
    }
    false
}

/// Makes the spare, and returns whether there is a usable spare afterwards.
fn make(store: &Store, configuration: &Configuration) -> bool {
    let id = configuration.id();
    // The priority applies only to the calling thread. If the priority cannot be changed, the agent
    // still makes the spare.
    let _ = rustix::process::setpriority_process(None, NICE);
    let started = Instant::now();
    match store.prepare_spare(configuration) {
        Ok(SpareOutcome::Ready) => {
            let ms = millis(started);
            tracing::info!(event = "spare_ready", %id, ms, "spare root made in {ms} ms");
            true
        }
        Ok(SpareOutcome::Unchanged) => true,
        Ok(SpareOutcome::NoRoom { bytes, inodes }) => {
            tracing::warn!(
                event = "spare_refused",
                %id,
                bytes,
                inodes,
                "no room for a spare root, which needs {} and {inodes} inodes; the agent builds \
                 roots without a spare",
                Size(bytes)
            );
            false
        }
        Err(err) => {
            tracing::warn!(event = "spare_failed", %id, "no spare root: {err}");
            false
        }
    }
}
