//! A cycle reads the agent's records, asks the registry, decides, and acts on the decision.
//!
//! A deploy has five steps: `preflight`, `prepare`, `switch`, `check_health`, `finish`. Only this
//! file, `redeploy`, `health_outcome` and `deploy_previous` run these steps. `deploy_previous` runs
//! a rollback, and a rollback has no health gate.

mod check_health;
pub mod decision;
pub mod deploy_previous;
mod finish;
mod health_outcome;
mod preflight;
mod prepare;
mod redeploy;
pub mod switch;
mod wanted;

use std::fmt::Write as _;
use std::time::Instant;

use deploy_store::{Configuration, Digest};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::decision::{Action, Decision, Known, decide};
pub use crate::cycle::decision::{Change, Outcome};
use crate::cycle::finish::Left;
pub use crate::cycle::health_outcome::retry_rejected;
use crate::cycle::prepare::{ChangedRoot, prepare};
use crate::cycle::switch::{Previous, Switch};
use crate::cycle::wanted::Wanted;
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::fleet::derived_state::held_since;
use crate::records::rollback_hold::RollbackHold;
use crate::records::state_file;
use crate::records::unproven::{self, Unproven};
use crate::space::spare_builder;

/// Runs one cycle. `waiting` is a configuration whose script failed and must not run again yet. The
/// function stores the id of the registry's configuration in `offered`.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    waiting: Option<&Configuration>,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    // This cycle may overlook an offer that arrives after this line. `newer` signals such an offer.
    let mut newer = agent.superseded.subscribe();
    let Records { deployed, hold, unproven } = read_records(agent).await?;
    let deployed_id = deployed.as_ref().map(Configuration::id);
    if let Some(hold) = hold.as_ref().filter(|hold| hold.is_unfinished(deployed_id)) {
        // The agent completes the rollback without asking the registry, which may be unreachable.
        return health_outcome::resume(agent, session, hold).await;
    }
    let needs_redeploy = redeploy::is_needed(agent, deployed_id).await;
    let wanted = match wanted::ask(agent, session).await {
        Ok(wanted) => wanted,
        Err(err) => {
            // The agent completes an interrupted gate even if the registry is unreachable.
            let interrupted = unproven.is_some_and(|it| it.is_of(deployed_id) && !it.is_rejected());
            let Some(deployed) = deployed.filter(|_| interrupted && !needs_redeploy) else {
                return Err(err);
            };
            let ended = health_outcome::end_gate(agent, session, &deployed, &mut newer).await?;
            return ended.ok_or(err);
        }
    };
    // An offer that `wanted` already contains is not newer.
    newer.mark_unchanged();
    if agent.offers.received().count != wanted.count {
        newer.mark_changed();
    }
    *offered = wanted.id;
    agent.reports.decides(wanted.revision);
    let held = wanted.held.as_deref();
    let new = if held.is_some() { deployed.clone() } else { wanted.configuration.clone() };
    let Some(new) = new else {
        agent.reports.held(None, wanted.id, held.unwrap_or_default().to_owned());
        return Ok(Outcome::HostHeld);
    };
    let known = Known {
        deployed: deployed.as_ref(),
        needs_redeploy,
        offered: &new,
        hold: hold.as_ref().filter(|_| held.is_none()),
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
    match act(agent, session, &known, &decision, &wanted, &mut newer).await? {
        Some(outcome) => Ok(outcome),
        None => Ok(report(agent, &known, &decision, &wanted)),
    }
}

/// Reports to the registry how the cycle ended after `decision` was carried out. Returns the
/// outcome of the cycle.
fn report(agent: &Agent, known: &Known<'_>, decision: &Decision<'_>, wanted: &Wanted) -> Outcome {
    let outcome = decision.outcome;
    let target = decision.target.id();
    match (outcome, &wanted.held, known.hold, known.unproven) {
        (Outcome::UpToDate | Outcome::Switched, Some(why), ..) => {
            agent.reports.held(Some(target), wanted.id, why.clone());
            return Outcome::HostHeld;
        }
        (Outcome::RolledBack, _, Some(hold), _) => match &hold.reason {
            Some(reason) => agent.reports.rolled_back(Some(target), wanted.id, reason.clone()),
            None => agent.reports.held(Some(target), wanted.id, held_since(hold)),
        },
        (Outcome::UpToDate | Outcome::Switched, None, ..) => agent.reports.up_to_date(target),
        (Outcome::Rejected, _, _, Some(unproven)) => {
            agent.reports.rejected(target, unproven.to_text());
        }
        (Outcome::Held, ..) => agent.reports.unchanged(),
        _ => {}
    }
    outcome
}

/// Carries out a decision. Returns an outcome only if the outcome of the cycle differs from the
/// outcome of the decision.
async fn act(
    agent: &Agent,
    session: &mut Session,
    known: &Known<'_>,
    decision: &Decision<'_>,
    wanted: &Wanted,
    newer: &mut watch::Receiver<()>,
) -> Result<Option<Outcome>> {
    let target = decision.target;
    let begin = || agent.reports.begin(known.deployed.map(Configuration::id), target.id());
    let (left, since) = match decision.action {
        Action::Wait => return Ok(None),
        Action::Maintain => {
            switch::mend_link(agent, target).await?;
            spare_builder::prepare(agent, target);
            return Ok(None);
        }
        Action::Check => (Left::Behind(None), Instant::now()),
        Action::Redeploy => {
            begin();
            (Left::Nothing, redeploy::run(agent, session, target).await?)
        }
        Action::Deploy(change) => {
            announce(change, target);
            begin();
            // The registry may have set a start time for the deploy.
            if wanted.is_pushed && !agent.offers.wait_to_start().await {
                return Ok(Some(Outcome::Superseded));
            }
            let Some(ended) = deploy(agent, session, known.deployed, target, wanted).await? else {
                return Ok(Some(Outcome::Staged));
            };
            (Left::Behind(known.deployed), ended)
        }
    };
    let gate = health_outcome::Gated { target, left, since, offered: Some(known.offered.id()) };
    health_outcome::check(agent, session, gate, newer).await
}

/// The records that a cycle reads from the agent's directory.
struct Records {
    deployed: Option<Configuration>,
    /// The hold that a rollback left, if any.
    hold: Option<RollbackHold>,
    /// The record of a configuration that has not proven healthy, if any.
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
            // Without health checks, the record has no use.
            unproven::remove(&dir)?;
        }
        Ok(Records { deployed, hold, unproven: unproven.filter(|_| has_gate) })
    };
    blocking::run(read).await
}

async fn lift_hold(agent: &Agent, id: Digest) -> Result<()> {
    tracing::info!(event = "released", %id, "the registry's configuration is now {id}: the hold has ended");
    let dir = agent.dir.clone();
    blocking::run(move || RollbackHold::lift(&dir)).await?;
    Ok(())
}

/// Ends the rejection of the deployed configuration. The configuration still has not proven
/// healthy.
async fn lift_rejection(agent: &Agent, id: Digest) -> Result<()> {
    tracing::info!(event = "released", %id, "the registry's configuration is now {id}: the hold has ended");
    retry_rejected(agent).await?;
    Ok(())
}

/// Deploys `new`. Returns the time at which the script ended, or `None` if a closed maintenance
/// window prevents the switch.
async fn deploy(
    agent: &Agent,
    session: &mut Session,
    old: Option<&Configuration>,
    new: &Configuration,
    wanted: &Wanted,
) -> Result<Option<Instant>> {
    preflight::check(agent, new)?;
    let root = prepare(agent, session, new, ChangedRoot::Refuse).await?;
    // A first deploy disturbs no service, so the agent does not wait for the maintenance window. If
    // the watch is lost, the agent cannot learn that the window has opened, and obeys the last
    // offer.
    if old.is_some() && agent.offers.is_staged_only(wanted.id) {
        tracing::info!(
            event = "staged",
            id = %new.id(),
            "root {} is ready; the script waits for the maintenance window of the host's group",
            new.id()
        );
        return Ok(None);
    }
    let (deployed, previous) = (old, Previous::Keep);
    let switch = Switch { deployed, new, root: &root, previous, hold: None };
    Ok(Some(switch::run(agent, switch).await?))
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
            "the new configuration has the same tree, but other names or versions of layers: the \
             agent updates the state file and runs the script"
        );
    }
}
