//! One cycle: it reads the agent's records, asks the registry, decides, and acts on the decision.
//!
//! A deploy has five steps: `preflight`, `prepare`, `switch`, `check_health`, `finish`. Only this
//! file, `redeploy` and `deploy_previous` (a rollback) run them; a rollback is not checked.

mod check_health;
pub mod decision;
pub mod deploy_previous;
mod finish;
mod preflight;
mod prepare;
mod redeploy;
pub mod switch;

use std::fmt::Write as _;
use std::time::Instant;

use deploy_store::{Configuration, Digest};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::check_health::Checked;
use crate::cycle::decision::{Action, Decision, Known, decide};
pub use crate::cycle::decision::{Change, Outcome};
use crate::cycle::finish::{Left, finish};
use crate::cycle::prepare::{ChangedRoot, prepare};
use crate::cycle::switch::{Previous, Switch};
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::{self, Unproven};
use crate::records::{previous, state_file};
use crate::space::spare_builder;

/// Runs one cycle. `waiting` is a configuration whose script failed, while it is too early to run
/// the script again. `offered` receives the id of the registry's configuration.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    waiting: Option<&Configuration>,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    // Whatever is announced from here on may come too late for this cycle.
    let mut newer = agent.superseded.subscribe();
    let Records { deployed, hold, unproven } = read_records(agent).await?;
    let deployed_id = deployed.as_ref().map(Configuration::id);
    if let Some(hold) = hold.as_ref().filter(|hold| hold.is_unfinished(deployed_id)) {
        // The completion of a rollback does not depend on the registry, which may be out of reach.
        return resume(agent, session, hold).await;
    }
    let needs_redeploy = redeploy::is_needed(agent, deployed_id).await;
    let new = match session.configuration().await {
        Ok(new) => new,
        Err(err) => {
            let interrupted = unproven.filter(|it| it.is_of(deployed_id) && !it.is_rejected());
            let Some(deployed) = deployed.filter(|_| interrupted.is_some() && !needs_redeploy)
            else {
                return Err(err);
            };
            // Neither does the end of an interrupted gate.
            let since = Instant::now();
            let ended = check_health::run(agent, session, &deployed, since, None, &mut newer);
            if let Some(outcome) = outcome(ended.await?) {
                return Ok(outcome);
            }
            finish_checked(agent, Left::Behind(None), &deployed).await;
            return Err(err);
        }
    };
    *offered = Some(new.id());
    let known = Known {
        deployed: deployed.as_ref(),
        needs_redeploy,
        offered: &new,
        hold: hold.as_ref(),
        waiting,
        unproven: unproven.as_ref(),
    };
    let decision = decide(&known);
    if decision.lifts_hold {
        lift_hold(agent, new.id()).await?;
    }
    if decision.lifts_rejection {
        lift_rejection(agent, new.id()).await?;
    }
    act(agent, session, &known, &decision, &mut newer).await
}

async fn act(
    agent: &Agent,
    session: &mut Session,
    known: &Known<'_>,
    decision: &Decision<'_>,
    newer: &mut watch::Receiver<()>,
) -> Result<Outcome> {
    let target = decision.target;
    let (left, since) = match decision.action {
        Action::Wait => return Ok(decision.outcome),
        Action::Maintain => {
            switch::mend_link(agent, target).await?;
            spare_builder::prepare(agent, target);
            return Ok(decision.outcome);
        }
        Action::Check => (Left::Behind(None), Instant::now()),
        Action::Redeploy => (Left::Nothing, redeploy::run(agent, session, target).await?),
        Action::Deploy(change) => {
            announce(change, target);
            let ended = deploy(agent, session, known.deployed, target).await?;
            (Left::Behind(known.deployed), ended)
        }
    };
    let offered = Some(known.offered.id());
    let checked = check_health::run(agent, session, target, since, offered, newer).await?;
    if let Some(outcome) = outcome(checked) {
        return Ok(outcome);
    }
    // Until here, the root of the previous configuration stays, because a rollback may need it.
    finish_checked(agent, left, target).await;
    Ok(decision.outcome)
}

/// Finishes the deploy of `target` after its gate. The previous configuration may be another one
/// than the replaced one: the last that had proven healthy.
async fn finish_checked(agent: &Agent, left: Left<'_>, target: &Configuration) {
    let Left::Behind(old) = left else { return finish(agent, left, target).await };
    if agent.health.is_none() {
        return finish(agent, left, target).await;
    }
    let (dir, id) = (agent.dir.clone(), target.id());
    let before = blocking::run(move || previous::read(&dir, Some(id))).await;
    finish(agent, Left::Behind(before.as_ref().or(old)), target).await;
}

/// How the cycle ends after a gate; `None` after success.
fn outcome(checked: Checked) -> Option<Outcome> {
    match checked {
        Checked::Healthy => None,
        Checked::Undecided => Some(Outcome::Undecided),
        Checked::RolledBack => Some(Outcome::RolledBack),
        Checked::Rejected => Some(Outcome::Rejected),
    }
}

/// Completes an interrupted rollback.
async fn resume(agent: &Agent, session: &mut Session, hold: &RollbackHold) -> Result<Outcome> {
    if hold.reason.is_some() {
        let checked = check_health::resume(agent, session, hold).await?;
        return Ok(outcome(checked).unwrap_or(Outcome::RolledBack));
    }
    deploy_previous::resume(agent, session, hold).await?;
    Ok(Outcome::RolledBack)
}

/// What the agent knows from its directory.
struct Records {
    deployed: Option<Configuration>,
    /// The hold that a rollback left.
    hold: Option<RollbackHold>,
    /// The configuration that has not proven healthy.
    unproven: Option<Unproven>,
}

async fn read_records(agent: &Agent) -> Result<Records> {
    let (dir, state) = (agent.dir.clone(), agent.state.clone());
    let has_gate = agent.health.is_some();
    let read = move || {
        let deployed = state_file::read(&state)?;
        let hold = RollbackHold::read(&dir)?;
        let unproven = Unproven::read(&dir);
        if unproven.is_some() && !has_gate {
            // An agent without checks has nothing to prove.
            unproven::remove(&dir)?;
        }
        Ok(Records { deployed, hold, unproven: unproven.filter(|_| has_gate) })
    };
    blocking::run(read).await
}

async fn lift_hold(agent: &Agent, id: Digest) -> Result<()> {
    tracing::info!(event = "released", %id, "the registry's configuration is now {id}: nothing is held any more");
    let dir = agent.dir.clone();
    blocking::run(move || RollbackHold::lift(&dir)).await?;
    Ok(())
}

/// Ends the rejection of the deployed configuration. It has still not proven healthy.
async fn lift_rejection(agent: &Agent, id: Digest) -> Result<()> {
    tracing::info!(event = "released", %id, "the registry's configuration is now {id}: nothing is held any more");
    retry_rejected(agent).await?;
    Ok(())
}

/// Lets the gate of a rejected configuration run again. Returns whether there was one.
pub async fn retry_rejected(agent: &Agent) -> Result<bool> {
    let dir = agent.dir.clone();
    Ok(blocking::run(move || unproven::retry(&dir)).await?)
}

/// Deploys `new`. Returns the time of the script's end.
async fn deploy(
    agent: &Agent,
    session: &mut Session,
    old: Option<&Configuration>,
    new: &Configuration,
) -> Result<Instant> {
    preflight::check(agent, new)?;
    let root = prepare(agent, session, new, ChangedRoot::Refuse).await?;
    let (deployed, previous) = (old, Previous::Keep);
    switch::run(agent, Switch { deployed, new, root: &root, previous, hold: None }).await
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
