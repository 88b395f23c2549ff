//! `rollback`: deploys what was deployed before, and holds.

use std::fmt::Write as _;

use deploy_store::{Configuration, Digest, escape, listed};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::cycle::preflight;
use crate::cycle::prepare::{Changed, prepare};
use crate::cycle::switch::{self, Before};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::records::rollback_hold::Hold;
use crate::records::unsettled::{self, Unsettled};
use crate::records::{previous, state_file};
use crate::space::{background_sweep, make_room, spare_builder};

/// What a rollback did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Id of what is deployed now.
    pub id: String,
    /// Id of what was.
    pub from: String,
    /// What is not deployed again until the registry has something else.
    pub hold: Hold,
    /// Names in the root that are not as the configuration says: somebody changed them, and
    /// they cannot be built again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

/// What lifting a hold did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Whether there was a hold.
    pub was_held: bool,
}

impl RolledBack {
    /// For people.
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
            "held until the registry has something else, or until deploy-agent rollback -release\n",
        );
        text
    }
}

impl Released {
    /// For people.
    pub fn to_text(&self) -> String {
        let text = if self.was_held {
            "released: what the registry has is deployed at the next look\n"
        } else {
            "nothing was held\n"
        };
        text.to_owned()
    }
}

/// Rolls back. `offered` is what the registry had at the last look.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    offered: Option<Digest>,
) -> Result<RolledBack> {
    let Some(current) = state_file::read(&agent.state)? else { return Err(Error::NothingDeployed) };
    let before = previous::read(&agent.dir, Some(current.id()));
    let left = unsettled::read(&agent.dir);
    let (from, to) = match (failed(left.as_ref(), current.id(), before.as_ref()), before) {
        (Some(failed), _) => (failed, current.clone()),
        (None, Some(before)) => (current.id(), before),
        (None, None) => {
            let held = Hold::read(&agent.dir)?;
            return Err(Error::NothingBefore { held: held.map(|hold| hold.from) });
        }
    };
    let hold = Hold::new(from, to.id(), offered, Timestamp::now());
    let changed = deploy_back(agent, session, &current, &to, &hold).await?;
    Ok(RolledBack { id: to.id().to_string(), from: from.to_string(), hold, changed })
}

/// What a script failed for that was to take the place of `deployed`: then that is what a rollback
/// leads to. Not so after another rollback, which is tried once more.
fn failed(
    left: Option<&Unsettled>,
    deployed: Digest,
    before: Option<&Configuration>,
) -> Option<Digest> {
    let left = left?;
    let failed = left.target().filter(|failed| *failed != deployed)?;
    let tried = left.rollback && before.is_some_and(|before| before.id() == failed);
    (!tried).then_some(failed)
}

/// Ends a rollback that was cut off when its script may have run already.
pub async fn resume(agent: &Agent, session: &mut Session, hold: &Hold) -> Result<()> {
    let current = state_file::read(&agent.state)?;
    let to = previous::read(&agent.dir, current.as_ref().map(Configuration::id));
    let (Some(current), Some(to)) = (current, to.filter(|to| to.id().to_string() == hold.to))
    else {
        Hold::lift(&agent.dir)?;
        return Ok(());
    };
    tracing::info!(event = "rollback_resumed", id = %to.id(), "ending a rollback that was cut off");
    deploy_back(agent, session, &current, &to, hold).await?;
    Ok(())
}

/// Returns the names in the root that are not as they should be, where it was used all the
/// same.
async fn deploy_back(
    agent: &Agent,
    session: &mut Session,
    current: &Configuration,
    to: &Configuration,
    hold: &Hold,
) -> Result<Vec<String>> {
    preflight::check(agent, to)?;
    // The way back must not depend on the registry, nor on what a service did to the root.
    let root = prepare(agent, session, to, Changed::Accepted).await?;
    // Before the script: should the agent die, what comes after it goes on from here.
    hold.write(&agent.dir)?;
    // Back to what is deployed, nothing is left behind that was.
    let same = to.id() == current.id();
    let before = if same { Before::Remembered } else { Before::Forgotten };
    if let Err(err) = switch::run(agent, Some(current), to, &root, before).await {
        // After anything else the script has done its work, and the rest is tried again.
        if matches!(err, Error::Script { .. }) {
            Hold::lift(&agent.dir)?;
        }
        return Err(err);
    }
    tracing::info!(
        event = "rolled_back",
        id = %to.id(),
        old_id = hold.from,
        "rolled back to {} from {}", to.id(), hold.from
    );
    background_sweep::roots(agent, Some(current), to).await;
    make_room::tidy(agent).await;
    spare_builder::prepare(agent, to);
    Ok(root.changed)
}
