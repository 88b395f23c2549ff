//! Sweeps that the agent does by itself: old roots, and what nothing in the cache needs. A
//! sweep that fails is told and tried again; it never fails a deploy.

use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::{Configuration, Size, What};

use crate::agent::Agent;
use crate::blocking;
use crate::space::in_use;

/// Removes old roots, but the current one, and the one before, as far as `-keep-roots`
/// goes.
pub async fn roots(agent: &Agent, old: Option<&Configuration>, new: &Configuration) {
    let needs = in_use::needs(agent, None).map(|needs| {
        // After a rollback the one before is not to be gone back to, but looked at.
        let previous = old.filter(|old| old.id() != new.id()).cloned().or(needs.previous);
        // Without an old root the script was told of none that it could have left.
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

/// Removes from the cache what has been there for an hour and neither the state nor a
/// root uses.
pub async fn cache(agent: &Agent) {
    let needs = in_use::needs(agent, None);
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
                "cache swept: {files} files of {}",
                Size(bytes)
            );
        }
        Err(err) => tracing::warn!(event = "sweep_failed", "cannot sweep the cache: {err}"),
    }
}
