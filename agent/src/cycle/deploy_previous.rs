//! Performs a rollback: deploys the previous configuration, and holds the configuration from which
//! the agent rolled back.

use std::fmt::Write as _;
use std::path::Path;

use deploy_store::{Configuration, Digest, escape, listed};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::finish::{Left, finish};
use crate::cycle::preflight;
use crate::cycle::prepare::{ChangedRoot, prepare};
use crate::cycle::switch::{self, Previous, Switch};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unsettled::{self, Unsettled};
use crate::records::{previous, state_file, unproven};

/// The result of a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Id of the configuration that is deployed now.
    pub id: String,
    /// Id of the configuration from which the agent rolled back.
    pub from: String,
    /// The hold. The agent does not deploy the held configurations until the registry's
    /// configuration changes, or until the hold is released.
    pub hold: RollbackHold,
    /// Names of the changed files that the agent could not repair in the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

/// The result of `rollback -release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Whether there was a hold, or a rejected configuration.
    pub was_held: bool,
}

impl RolledBack {
    /// Returns the result as text for people.
    pub fn to_text(&self) -> String {
        let Self { id, from, hold, changed } = self;
        let mut text = format!("rolled back to {id}\nheld        {from}\n");
        if let Some(registry) = &hold.registry {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "held        {registry}");
        }
        if !changed.is_empty() {
            let names = escape(&listed(changed));
            let _ = writeln!(text, "changed     {names}");
        }
        text.push_str(
            "held until the registry's configuration changes, or until deploy-agent rollback -release\n",
        );
        text
    }
}

impl Released {
    /// Returns the result as text for people.
    pub fn to_text(&self) -> String {
        let text = if self.was_held {
            "released: at the next poll, the agent deploys the registry's configuration, or checks \
             its health again\n"
        } else {
            "nothing was held\n"
        };
        text.to_owned()
    }
}

/// Rolls back. `offered` is the id of the registry's configuration at the last poll.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    offered: Option<Digest>,
) -> Result<RolledBack> {
    let (dir, state) = (agent.dir.clone(), agent.state.clone());
    let WayBack { current, from, to } = blocking::run(move || way_back(&dir, &state)).await?;
    let hold = RollbackHold::new(from, to.id(), offered, Timestamp::now());
    let changed = deploy_back(agent, session, &current, &to, &hold).await?;
    Ok(RolledBack { id: to.id().to_string(), from: from.to_string(), hold, changed })
}

/// The start and the target of a rollback.
struct WayBack {
    /// The deployed configuration.
    current: Configuration,
    /// Id of the configuration that must not be deployed again: the deployed configuration, or a
    /// configuration whose script failed.
    from: Digest,
    to: Configuration,
}

fn way_back(dir: &Path, state: &Path) -> Result<WayBack> {
    let Some(current) = state_file::read(state)? else { return Err(Error::NothingDeployed) };
    let previous = previous::read(dir, Some(current.id()));
    let left = unsettled::read(dir);
    let (from, to) = match (failed(left.as_ref(), current.id(), previous.as_ref()), previous) {
        (Some(failed), _) => (failed, current.clone()),
        (None, Some(previous)) => (current.id(), previous),
        (None, None) => {
            let held = RollbackHold::read(dir)?;
            return Err(Error::NothingBefore { held: held.map(|hold| hold.from) });
        }
    };
    Ok(WayBack { current, from, to })
}

/// Id of a configuration that should have replaced `deployed`, but whose script failed. In this
/// case, a rollback returns from that configuration to `deployed`. If the failed script belonged to
/// a rollback to `previous`, the result is `None`, and the agent tries that rollback again.
fn failed(
    left: Option<&Unsettled>,
    deployed: Digest,
    previous: Option<&Configuration>,
) -> Option<Digest> {
    let left = left?;
    let failed = left.target().filter(|failed| *failed != deployed)?;
    let tried = left.rollback && previous.is_some_and(|previous| previous.id() == failed);
    (!tried).then_some(failed)
}

/// Ends the hold in `dir`, and the rejection of a configuration whose health gate failed. Returns
/// whether there was a hold or a rejection.
pub fn release(dir: &Path) -> deploy_store::Result<bool> {
    let was_rejected = unproven::retry(dir)?;
    Ok(RollbackHold::lift(dir)? || was_rejected)
}

/// Completes an interrupted rollback, whose script may already have run.
pub async fn resume(agent: &Agent, session: &mut Session, hold: &RollbackHold) -> Result<()> {
    if let Some((current, to)) = interrupted(agent, hold).await? {
        deploy_back(agent, session, &current, &to, hold).await?;
    }
    Ok(())
}

/// The start and the target of an interrupted rollback. If the agent's records do not name both
/// configurations, the function lifts the hold and returns `None`.
pub(super) async fn interrupted(
    agent: &Agent,
    hold: &RollbackHold,
) -> Result<Option<(Configuration, Configuration)>> {
    let (dir, state, hold_to) = (agent.dir.clone(), agent.state.clone(), hold.to.clone());
    let look = move || {
        let current = state_file::read(&state)?;
        let to = previous::read(&dir, current.as_ref().map(Configuration::id));
        let way = current.zip(to.filter(|to| to.id().to_string() == hold_to));
        if way.is_none() {
            RollbackHold::lift(&dir)?;
        }
        Ok::<_, Error>(way)
    };
    let way = blocking::run(look).await?;
    if let Some((_, to)) = &way {
        tracing::info!(event = "rollback_resumed", id = %to.id(), "completing an interrupted rollback");
    }
    Ok(way)
}

/// Deploys `to` in place of `current`. If the root of `to` was changed and cannot be rebuilt, the
/// agent uses the changed root. In this case, the function returns the names of the files that
/// differ.
pub(super) async fn deploy_back(
    agent: &Agent,
    session: &mut Session,
    current: &Configuration,
    to: &Configuration,
    hold: &RollbackHold,
) -> Result<Vec<String>> {
    preflight::check(agent, to)?;
    // A rollback must succeed even without the registry, and even if a service has changed the
    // root.
    let root = prepare(agent, session, to, ChangedRoot::Accept).await?;
    // If `to` is already deployed, the switch replaces no configuration, and `previous.json` stays
    // unchanged.
    let same = to.id() == current.id();
    let previous = if same { Previous::Keep } else { Previous::Clear };
    let switch =
        Switch { deployed: Some(current), new: to, root: &root, previous, hold: Some(hold) };
    switch::run(agent, switch).await?;
    tracing::info!(
        event = "rolled_back",
        id = %to.id(),
        old_id = hold.from,
        "rolled back to {} from {}", to.id(), hold.from
    );
    finish(agent, Left::Behind(Some(current)), to).await;
    Ok(root.changed)
}
