//! A cycle reads the agent's records, asks the registry, decides, and acts on the decision.
//!
//! A deploy has four steps: `preflight`, `prepare`, `switch`, `finish`. Only this file, `redeploy`
//! and `deploy_previous` (a rollback) run all four steps.

pub mod decision;
pub mod deploy_previous;
mod finish;
mod preflight;
mod prepare;
mod redeploy;
pub mod switch;
mod wanted;

use std::fmt::Write as _;

use deploy_store::{Configuration, Digest};

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::decision::{Action, Decision, Known, decide};
pub use crate::cycle::decision::{Change, Outcome};
use crate::cycle::finish::{Left, finish};
use crate::cycle::prepare::{ChangedRoot, prepare};
use crate::cycle::switch::{Previous, Switch};
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::fleet::derived_state::held_since;
use crate::records::rollback_hold::RollbackHold;
use crate::records::state_file;
use crate::space::spare_builder;

/// Runs one cycle. `waiting` is a configuration whose script failed and must not run again yet.
/// `offered` receives the id of the registry's configuration.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    waiting: Option<&Configuration>,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    let (deployed, hold) = read_records(agent).await?;
    let deployed_id = deployed.as_ref().map(Configuration::id);
    if let Some(hold) = hold.as_ref().filter(|hold| hold.is_unfinished(deployed_id)) {
        // The completion of a rollback does not depend on the registry, which may be unreachable.
        deploy_previous::resume(agent, session, hold).await?;
        let (runs, wants) = (hold.to.parse().ok(), hold.from.parse().ok());
        agent.reports.held(runs, wants, held_since(hold));
        return Ok(Outcome::RolledBack);
    }
    let wanted = wanted::ask(agent, session).await?;
    *offered = wanted.id;
    agent.reports.decides(wanted.revision);
    let held = wanted.held.as_deref();
    let new = if held.is_some() { deployed.clone() } else { wanted.configuration };
    let Some(new) = new else {
        agent.reports.held(None, wanted.id, held.unwrap_or_default().to_owned());
        return Ok(Outcome::HostHeld);
    };
    let known = Known {
        deployed: deployed.as_ref(),
        needs_redeploy: redeploy::is_needed(agent, deployed_id).await,
        offered: &new,
        hold: hold.as_ref().filter(|_| held.is_none()),
        waiting,
    };
    let decision = decide(&known);
    if decision.lifts_hold {
        lift_hold(agent, new.id()).await?;
    }
    let outcome = act(agent, session, &known, &decision, wanted.is_pushed).await?;
    let target = Some(decision.target.id());
    Ok(match (outcome, held, &hold) {
        (Outcome::UpToDate | Outcome::Switched, Some(why), _) => {
            agent.reports.held(target, wanted.id, why.to_owned());
            Outcome::HostHeld
        }
        (Outcome::RolledBack, _, Some(hold)) => {
            agent.reports.held(target, wanted.id, held_since(hold));
            outcome
        }
        (Outcome::UpToDate | Outcome::Switched, None, _) => {
            agent.reports.up_to_date(decision.target.id());
            outcome
        }
        (Outcome::Held, ..) => {
            agent.reports.unchanged();
            outcome
        }
        _ => outcome,
    })
}

/// Acts on a decision. `is_pushed`: the registry sent the configuration on its own, and may have
/// said when to begin.
async fn act(
    agent: &Agent,
    session: &mut Session,
    known: &Known<'_>,
    decision: &Decision<'_>,
    is_pushed: bool,
) -> Result<Outcome> {
    let target = decision.target;
    let begin = || agent.reports.begin(known.deployed.map(Configuration::id), target.id());
    match decision.action {
        Action::Wait => {}
        Action::Maintain => {
            switch::mend_link(agent, target).await?;
            spare_builder::prepare(agent, target);
        }
        Action::Redeploy => {
            begin();
            redeploy::run(agent, session, target).await?;
        }
        Action::Deploy(change) => {
            announce(change, target);
            begin();
            if is_pushed && !agent.offers.wait_to_start().await {
                return Ok(Outcome::Superseded);
            }
            deploy(agent, session, known.deployed, target).await?;
        }
    }
    Ok(decision.outcome)
}

/// Reads the deployed configuration, and the hold that a rollback left.
async fn read_records(agent: &Agent) -> Result<(Option<Configuration>, Option<RollbackHold>)> {
    let (dir, state) = (agent.dir.clone(), agent.state.clone());
    blocking::run(move || Ok((state_file::read(&state)?, RollbackHold::read(&dir)?))).await
}

async fn lift_hold(agent: &Agent, id: Digest) -> Result<()> {
    tracing::info!(event = "released", %id, "the registry's configuration is now {id}: nothing is held any more");
    let dir = agent.dir.clone();
    blocking::run(move || RollbackHold::lift(&dir)).await?;
    Ok(())
}

async fn deploy(
    agent: &Agent,
    session: &mut Session,
    old: Option<&Configuration>,
    new: &Configuration,
) -> Result<()> {
    preflight::check(agent, new)?;
    let root = prepare(agent, session, new, ChangedRoot::Refuse).await?;
    let (deployed, previous) = (old, Previous::Keep);
    switch::run(agent, Switch { deployed, new, root: &root, previous, hold: None }).await?;
    agent.reports.healthy();
    finish(agent, Left::Behind(old), new).await;
    Ok(())
}

fn announce(change: Change, new: &Configuration) {
    let mut layers = String::new();
    if tracing::enabled!(tracing::Level::DEBUG) {
        for (n, layer) in new.layers().iter().enumerate() {
            let (component, version) = (layer.component.as_str(), layer.version.as_str());
            let n = n + 1;
            // Writing to a string cannot fail.
            let _ = write!(layers, "\n\tcomponent {n}: {component:?}, version: {version:?}");
        }
    }
    tracing::info!(
        event = "update_available",
        id = %new.id(),
        layers = new.layers().len(),
        labels_only = change == Change::Labels,
        "configuration update available: {}{layers}", new.id()
    );
    if change == Change::Labels {
        tracing::info!(
            event = "same_tree",
            id = %new.id(),
            "the deployed tree has other names or versions: the agent updates the state file and runs the script"
        );
    }
}
