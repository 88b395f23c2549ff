//! Prepares the root of a configuration: downloads and extracts missing layers, and builds the
//! root. If the root exists already and is undamaged, the agent uses that root.

mod make_root;

use std::sync::Arc;

use deploy_store::{Configuration, Digest, Drifted, Root, listed};
use deploy_wire::fleet::Phase;

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::prepare::make_root::{Way, make};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::records::agent_report::Report;
use crate::records::{current_link, running_script, state_file};
use crate::space::make_room;

/// What to do with an existing root that was changed and cannot be built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangedRoot {
    /// Fail, and let the next cycle try again. If only a mount or a missing permission prevents the
    /// replacement of the changed root, use that root.
    Refuse,
    /// Use the changed root, because a changed root is better than no root.
    Accept,
}

/// Prepares the root of `new`. If the root exists, is not in use, and was changed since its deploy,
/// the agent rebuilds the root. The changed root stays until the new root is complete.
pub(super) async fn prepare(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    changed: ChangedRoot,
) -> Result<Root> {
    let prepared = reuse_or_build(agent, session, new, changed).await;
    if prepared.is_ok() {
        agent.reports.reached(Phase::Staged);
    }
    prepared.map_err(|err| make_room::explain_full(agent, err, None))
}

async fn reuse_or_build(
    agent: &Agent,
    session: &mut Session,
    new: &Configuration,
    changed: ChangedRoot,
) -> Result<Root> {
    // A script that still runs may use this root, and two scripts that run at the same time could
    // undo each other's work.
    running_script::wait_for_end(&agent.dir).await;
    // The agent does not check a root in use, because the service may write to the root.
    let used = in_use(agent, new.id()).await?;
    let in_use = used != Used::No;
    let drifted = if used == Used::Yes { None } else { drift(agent, new, used).await? };
    let Some(drifted) = drifted else {
        return match make(agent, session, new, Way::Reuse { in_use }).await {
            Err(err) if changed == ChangedRoot::Accept && adopt_unseen(agent, new, &err).await => {
                make(agent, session, new, Way::Reuse { in_use }).await
            }
            other => other,
        };
    };
    let is_mounted = drifted.mounted.is_some();
    let why = match &drifted.mounted {
        Some(point) => format!("something is mounted on {}", point.display()),
        None => match make(agent, session, new, Way::Rebuild).await {
            Err(err) if changed == ChangedRoot::Accept || is_held(&err) => err.to_string(),
            other => return other,
        },
    };
    let root = make(agent, session, new, Way::Reuse { in_use }).await?;
    let changed = if is_mounted { drifted.names } else { mend(agent, new, drifted.names).await };
    let (id, files, names) = (new.id(), changed.len(), listed(&changed));
    if changed.is_empty() {
        tracing::warn!(
            event = "root_mended", %id,
            "root {id} was changed since its deploy; the agent repairs the root in place, because \
             the root cannot be rebuilt ({why})"
        );
    } else {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files,
            "root {id} was changed since its deploy; the agent uses the changed root, because the \
             root cannot be rebuilt ({why}): {names}"
        );
    }
    Ok(Root { changed, ..root })
}

/// Whether a root is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    No,
    /// The root is in use, according to the state file.
    Yes,
    /// The state file is lost, but the root is in use according to another record or the symlink.
    Probably,
}

/// Whether the root `id` is in use. If the state file is lost, the root that this agent deployed
/// last counts as in use. If that root is unknown, too, the target of the symlink counts as in use.
async fn in_use(agent: &Agent, id: Digest) -> Result<Used> {
    let (dir, state, link) = (agent.dir.clone(), agent.state.clone(), agent.current.clone());
    let root = agent.store.root_path(id);
    let look = move || {
        if let Some(deployed) = state_file::read(&state)? {
            return Ok(if deployed.id() == id { Used::Yes } else { Used::No });
        }
        let probably = match (Report::read(&dir).deployed, link) {
            (Some(deployed), _) => deployed == id.to_string(),
            (None, Some(link)) => {
                let root = std::path::absolute(root).ok();
                root.is_some() && current_link::target(&link)? == root
            }
            (None, None) => false,
        };
        Ok(if probably { Used::Probably } else { Used::No })
    };
    blocking::run(look).await
}

/// Whether `err` means that the new root is complete, but the old root cannot be moved away.
fn is_held(err: &Error) -> bool {
    matches!(err, Error::Store(err) if err.is_root_held())
}

/// Repairs a root in place, as far as the cache allows. Returns the names of the entries that still
/// differ.
async fn mend(agent: &Agent, new: &Configuration, drifted: Vec<String>) -> Vec<String> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let mended = blocking::confined(&agent.confinement, move || store.mend_root(&wanted)).await;
    mended.unwrap_or_else(|err| {
        tracing::debug!("the root is not repaired: {err}");
        drifted
    })
}

/// Adopts a root that has no record and cannot be compared with its configuration, because some
/// layers of the configuration are missing. `err` is the reason why layers are missing. Returns
/// whether there is such a root.
async fn adopt_unseen(agent: &Agent, new: &Configuration, err: &Error) -> bool {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let id = new.id();
    let adopted =
        blocking::confined(&agent.confinement, move || store.adopt_unseen_root(&wanted)).await;
    let is_there = adopted.unwrap_or_else(|err| {
        tracing::debug!("the root is not adopted: {err}");
        false
    });
    if is_there {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files = 0,
            "root {id} has no record and cannot be compared with its layers, because some layers \
             are missing ({err}); the agent uses the root unchecked"
        );
    }
    is_there
}

/// Compares a root of an earlier deploy with its configuration, and returns the differences. If the
/// root is probably in use, has all entries and contains no mount, the result is `None`, because
/// the service in the root may have written to its files.
async fn drift(agent: &Agent, new: &Configuration, used: Used) -> Result<Option<Drifted>> {
    let (store, wanted) = (Arc::clone(&agent.store), new.clone());
    let id = new.id();
    let look = move || Ok::<_, Error>(store.drifted_root(&wanted));
    let drifted = blocking::confined(&agent.confinement, look).await?;
    let Some(Drifted { names, lacking, mounted: None }) = &drifted else { return Ok(drifted) };
    let (files, names) = (names.len(), listed(names));
    if used == Used::Probably && !lacking {
        tracing::warn!(
            event = "root_kept_changed",
            %id,
            files,
            "root {id} was changed since its deploy; the agent uses the changed root, because the \
             root is probably in use (there is no state file): {names}"
        );
        return Ok(None);
    }
    tracing::warn!(
        event = "root_damaged",
        %id,
        files,
        "root {id} was changed since its deploy; the agent rebuilds the root: {names}"
    );
    Ok(drifted)
}
