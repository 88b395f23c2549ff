//! Deploys the deployed configuration again, because its root is missing or because the last script
//! did not succeed.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use deploy_store::{Configuration, Digest, Store};

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::preflight;
use crate::cycle::prepare::{ChangedRoot, prepare};
use crate::cycle::switch::{self, Previous, Switch};
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::records::running_script;
use crate::records::unsettled::{self, Unsettled};

/// Whether the configuration `deployed` must be deployed again, because its root is missing or
/// because the last script did not succeed. The root is missing if somebody removed the root or the
/// agent's directory.
pub(super) async fn is_needed(agent: &Agent, deployed: Option<Digest>) -> bool {
    let Some(deployed) = deployed else { return false };
    let (dir, store) = (agent.dir.clone(), Arc::clone(&agent.store));
    blocking::run(move || unsettled::read(&dir).is_some() || is_gone(&store, deployed)).await
}

fn is_gone(store: &Store, id: Digest) -> bool {
    matches!(
        store.root_path(id).symlink_metadata(),
        Err(err) if err.kind() == io::ErrorKind::NotFound
    )
}

/// Rebuilds the root of the deployed configuration if the root is missing, and runs the script.
/// Returns the time at which the script ended.
pub(super) async fn run(
    agent: &Agent,
    session: &mut Session,
    deployed: &Configuration,
) -> Result<Instant> {
    running_script::wait_for_end(&agent.dir).await;
    let id = deployed.id();
    let (dir, store) = (agent.dir.clone(), Arc::clone(&agent.store));
    let has_script = agent.script.is_some();
    blocking::run(move || {
        let left = unsettled::read(&dir);
        announce(id, is_gone(&store, id), left.as_ref());
        if left.is_none() && has_script {
            // The agent records the start of the script before it rebuilds the root. Otherwise an
            // agent that is killed after the rebuild would leave a complete root, and the next
            // agent would not run the script.
            unsettled::begin(&dir, None, id, None, false, false)?;
        }
        Ok::<_, deploy_store::Error>(())
    })
    .await?;
    preflight::check(agent, deployed)?;
    let root = prepare(agent, session, deployed, ChangedRoot::Refuse).await?;
    let switch = Switch {
        deployed: Some(deployed),
        new: deployed,
        root: &root,
        previous: Previous::Keep,
        hold: None,
    };
    switch::run(agent, switch).await
}

fn announce(id: Digest, is_gone: bool, left: Option<&Unsettled>) {
    if is_gone {
        tracing::warn!(
            event = "root_gone",
            %id,
            "the deployed root {id} is missing; the agent rebuilds the root and runs the script"
        );
    } else if let Some(Unsettled { id: failed, failed: Some(at), .. }) = left {
        tracing::warn!(
            event = "script_again",
            %id,
            failed,
            "the script failed for {failed} at {at:.0}; the script runs again for the deployed {id}"
        );
    } else {
        tracing::warn!(
            event = "script_again",
            %id,
            "the previous script's result is unknown; the script runs again for the deployed {id}"
        );
    }
}
