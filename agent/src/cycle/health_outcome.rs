//! Runs a health gate, and translates its result into the outcome of the cycle.

use std::time::Instant;

use deploy_store::{Configuration, Digest};
use tokio::sync::watch;

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::check_health::{self, Checked};
use crate::cycle::decision::Outcome;
use crate::cycle::deploy_previous;
use crate::cycle::finish::{Left, finish};
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::fleet::derived_state::held_since;
use crate::records::rollback_hold::RollbackHold;
use crate::records::{previous, unproven};

/// A deployed configuration whose health gate, if there is one, must run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gated<'a> {
    /// The deployed configuration.
    pub target: &'a Configuration,
    /// The configuration that the switch to `target` replaced.
    pub left: Left<'a>,
    /// The time at which the script ended.
    pub since: Instant,
    /// Id of the registry's configuration, if that id is known.
    pub offered: Option<Digest>,
}

/// Runs the gate. If the gate succeeds, or if there is no gate, finishes the deploy and returns
/// `None`. Otherwise returns the outcome of the cycle.
pub(super) async fn check(
    agent: &Agent,
    session: &mut Session,
    gated: Gated<'_>,
    newer: &mut watch::Receiver<()>,
) -> Result<Option<Outcome>> {
    let Gated { target, left, since, offered } = gated;
    let checked = check_health::run(agent, session, target, since, offered, newer).await?;
    let ended = outcome(checked);
    if ended.is_none() {
        agent.reports.healthy();
        // The agent removes old roots only after the gate. If the gate had failed, the rollback
        // would have needed the previous root.
        finish_checked(agent, left, target).await;
    }
    Ok(ended)
}

/// Runs the interrupted gate of `deployed`. Returns the outcome of the cycle, or `None` after
/// success.
pub(super) async fn end_gate(
    agent: &Agent,
    session: &mut Session,
    deployed: &Configuration,
    newer: &mut watch::Receiver<()>,
) -> Result<Option<Outcome>> {
    let (left, since) = (Left::Behind(None), Instant::now());
    let gated = Gated { target: deployed, left, since, offered: None };
    check(agent, session, gated, newer).await
}

/// Finishes the deploy of `target` after its gate. The sweep keeps the root of the last
/// configuration that proved healthy. The root that the switch has just replaced may be another one,
/// because its configuration may never have proved healthy.
async fn finish_checked(agent: &Agent, left: Left<'_>, target: &Configuration) {
    let Left::Behind(old) = left else { return finish(agent, left, target).await };
    if agent.health.is_none() {
        return finish(agent, left, target).await;
    }
    let (dir, id) = (agent.dir.clone(), target.id());
    let before = blocking::run(move || previous::read(&dir, Some(id))).await;
    finish(agent, Left::Behind(before.as_ref().or(old)), target).await;
}

/// The outcome of the cycle after the health gate; `None` if the configuration is healthy.
fn outcome(checked: Checked) -> Option<Outcome> {
    match checked {
        Checked::Healthy => None,
        Checked::Undecided => Some(Outcome::Undecided),
        Checked::RolledBack => Some(Outcome::RolledBack),
        Checked::Rejected => Some(Outcome::Rejected),
    }
}

/// Completes an interrupted rollback.
pub(super) async fn resume(
    agent: &Agent,
    session: &mut Session,
    hold: &RollbackHold,
) -> Result<Outcome> {
    if hold.reason.is_some() {
        let checked = check_health::resume(agent, session, hold).await?;
        return Ok(outcome(checked).unwrap_or(Outcome::RolledBack));
    }
    deploy_previous::resume(agent, session, hold).await?;
    let (runs, wants) = (hold.to.parse().ok(), hold.from.parse().ok());
    agent.reports.held(runs, wants, held_since(hold));
    Ok(Outcome::RolledBack)
}

/// Lets the gate of a rejected configuration run again. Returns whether there was a rejected
/// configuration.
pub async fn retry_rejected(agent: &Agent) -> Result<bool> {
    let dir = agent.dir.clone();
    Ok(blocking::run(move || unproven::retry(&dir)).await?)
}
