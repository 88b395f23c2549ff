//! Performs the sweeps that the agent does on its own: sweeps of old roots, and sweeps of the
//! unused cache. The agent logs and retries a failed sweep. A failed sweep never fails a deploy.

use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::{Configuration, Size, What, plural};

use crate::agent::Agent;
use crate::blocking;
use crate::space::in_use;

/// Removes old roots after a switch from `old` to `new`. `-keep-roots` says how many roots stay.
pub async fn roots(agent: &Agent, old: Option<&Configuration>, new: &Configuration) {
    let needs = in_use::retention(agent, None).map(|needs| {
        // After a rollback, the root from before the rollback stays for inspection.
        let previous = old.filter(|old| old.id() != new.id()).cloned().or(needs.previous);
        // If there was no old root, the script was not asked to stop an old service. Such a service
        // may still run in a replaced root.
        let (current, replaced) = (Some(new.clone()), old.is_some());
        crate::space::retained::Retention { current, previous, replaced, ..needs }
    });
    let (store, current) = (Arc::clone(&agent.store), new.id());
    let sweep = move || {
        let planned = store.plan_sweep(&needs?.roots_only(&store.roots()?))?;
        let stuck = store.sweep(&planned)?;
        Ok::<_, deploy_store::Error>(planned.without(stuck).count(What::Root))
    };
    match blocking::run(sweep).await {
        Ok(0) => {}
        Ok(roots) => {
            tracing::info!(
                event = "roots_removed",
                id = %current,
                roots,
                "old roots removed: {roots}"
            );
        }
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot remove old roots: {err}"),
    }
}

/// Removes unused data of the cache that has not changed for an hour.
pub async fn cache(agent: &Agent) {
    let needs = in_use::retention(agent, None);
    let store = Arc::clone(&agent.store);
    let sweep = move || {
        let planned = store.plan_sweep(&needs?.aged(&store.roots()?, SystemTime::now()))?;
        let stuck = store.sweep(&planned)?;
        Ok::<_, deploy_store::Error>(planned.without(stuck))
    };
    match blocking::run(sweep).await {
        Ok(planned) if planned.files() == 0 => {}
        Ok(planned) => {
            let (files, bytes) = (planned.files(), planned.bytes());
            tracing::info!(
                event = "cache_swept",
                files,
                bytes,
                "cache swept: removed {} of {}",
                plural(files, "file"),
                Size(bytes)
            );
        }
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot sweep the cache: {err}"),
    }
}
