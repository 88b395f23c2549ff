//! Runs the health gate of the deployed configuration, and acts on its result.

use std::time::Instant;

use deploy_store::{Configuration, Digest};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::blocking;
use crate::cycle::deploy_previous;
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::flags::health_flags::{Check, OnFailure};
use crate::health::gate::{self, Gate, Verdict};
use crate::health::subject::Subject;
use crate::records::last_gate::{GateAction, LastGate};
use crate::records::previous;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::{self, Failure, Unproven};

/// The result of a gate, and what the agent did after the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// The configuration is healthy, or there is no gate.
    Healthy,
    /// The gate was interrupted before it had a result.
    Undecided,
    /// The previous configuration is deployed again.
    RolledBack,
    /// The configuration is not healthy, and is kept.
    Rejected,
}

/// Runs the gate for `deployed`, whose script ended at `since`. `offered` is the id of the
/// registry's configuration, if that id is known. A signal on `newer` ends the gate early.
pub(super) async fn run(
    agent: &Agent,
    session: &mut Session,
    deployed: &Configuration,
    since: Instant,
    offered: Option<Digest>,
    newer: &mut watch::Receiver<()>,
) -> Result<Checked> {
    let Some(gate) = &agent.health else { return Ok(Checked::Healthy) };
    let begun = LastGate::begins(deployed.id(), gate.checks.iter().map(Check::to_string).collect());
    note(agent, begun).await;
    agent.reports.checks(deployed.id());
    match gate::run(gate, subject(agent, session, deployed), since, newer).await {
        Verdict::Healthy => {
            let (dir, report) = (agent.dir.clone(), agent.report.clone());
            let healthy = move || {
                report.update(|report| report.health = report.health.take().map(LastGate::healthy));
                unproven::remove(&dir)
            };
            blocking::run(healthy).await?;
            Ok(Checked::Healthy)
        }
        Verdict::Superseded => Ok(Checked::Undecided),
        Verdict::Failed(reason) => fail(agent, gate, session, deployed, &reason, offered).await,
    }
}

fn subject(agent: &Agent, session: &Session, deployed: &Configuration) -> Subject {
    let root = agent.store.root_path(deployed.id());
    Subject {
        configuration: deployed.clone(),
        root: std::path::absolute(&root).unwrap_or(root),
        env_file: agent.script.as_ref().and_then(|script| script.env_file.clone()),
        session: session.fresh(),
    }
}

async fn note(agent: &Agent, gate: LastGate) {
    let report = agent.report.clone();
    blocking::run(move || report.update(|report| report.health = Some(gate))).await;
}

/// Rolls back to the previous configuration, or keeps `deployed` and records the rejection.
async fn fail(
    agent: &Agent,
    gate: &Gate,
    session: &mut Session,
    deployed: &Configuration,
    reason: &str,
    offered: Option<Digest>,
) -> Result<Checked> {
    let id = deployed.id();
    let target =
        if gate.on_failure == OnFailure::Rollback { target(agent, id).await } else { None };
    let Some(target) = target else {
        tracing::error!(
            event = "health_failed",
            %id,
            reason,
            action = "kept",
            "{id} is not healthy: {reason}; the agent keeps {id}, and deploys nothing until the \
             registry's configuration changes, or until deploy-agent sync or deploy-agent rollback \
             -release"
        );
        reject(agent, id, reason, None).await?;
        return Ok(Checked::Rejected);
    };
    let to = target.id();
    tracing::error!(
        event = "health_failed",
        %id,
        reason,
        action = "rolled_back",
        "{id} is not healthy: {reason}; rolling back to {to}"
    );
    let hold = RollbackHold::new(id, to, offered, Timestamp::now()).because(reason.to_owned());
    // The agent records the hold before it begins the rollback. If the agent dies during the
    // rollback, the next start of the agent reads the hold and completes the rollback.
    let (dir, decided) = (agent.dir.clone(), hold.clone());
    blocking::run(move || decided.put(&dir)).await?;
    roll_back(agent, session, deployed, &target, &hold).await
}

/// The configuration to which the agent can roll back from `deployed`, if any.
async fn target(agent: &Agent, deployed: Digest) -> Option<Configuration> {
    let dir = agent.dir.clone();
    let look = move || {
        let record = Unproven::read(&dir).filter(|record| record.is_of(Some(deployed)))?;
        previous::read(&dir, Some(deployed)).filter(|found| Some(found.id()) == record.back())
    };
    blocking::run(look).await
}

/// Completes an interrupted rollback that the agent began after a failed gate. If the rollback had
/// already failed, the function lifts the hold and does not try again.
pub(super) async fn resume(
    agent: &Agent,
    session: &mut Session,
    hold: &RollbackHold,
) -> Result<Checked> {
    let (dir, from) = (agent.dir.clone(), hold.from.clone());
    let had_failed = move || {
        let record = Unproven::read(&dir).filter(|it| it.id == from && it.is_rejected());
        if record.is_some() {
            RollbackHold::lift(&dir)?;
        }
        Ok::<_, Error>(record)
    };
    if let Some(record) = blocking::run(had_failed).await? {
        if let Ok(id) = record.id.parse() {
            agent.reports.rejected(id, record.to_text());
        }
        return Ok(Checked::Rejected);
    }
    match deploy_previous::interrupted(agent, hold).await? {
        Some((current, to)) => roll_back(agent, session, &current, &to, hold).await,
        None => Ok(Checked::RolledBack),
    }
}

/// Tries once to roll back from `current` to `to`. If the rollback fails, the agent keeps
/// `current`.
async fn roll_back(
    agent: &Agent,
    session: &mut Session,
    current: &Configuration,
    to: &Configuration,
    hold: &RollbackHold,
) -> Result<Checked> {
    let reason = hold.reason.as_deref().unwrap_or_default();
    let (id, to_id) = (current.id(), to.id());
    let Err(err) = deploy_previous::deploy_back(agent, session, current, to, hold).await else {
        note_failure(agent, reason, GateAction::RolledBack, None).await;
        agent.reports.rolled_back(Some(to_id), Some(id), reason.to_owned());
        return Ok(Checked::RolledBack);
    };
    tracing::error!(
        event = "rollback_failed",
        %id,
        to = %to_id,
        "{id} is not healthy ({reason}), and the rollback to {to_id} failed, too: {err}; the agent \
         does not try again until the registry's configuration changes, or until deploy-agent sync \
         or deploy-agent rollback -release"
    );
    reject(agent, id, reason, Some(err.to_string())).await?;
    let dir = agent.dir.clone();
    blocking::run(move || RollbackHold::lift(&dir)).await?;
    Ok(Checked::Rejected)
}

/// Records that the agent keeps the configuration `id` although that configuration is not healthy.
async fn reject(
    agent: &Agent,
    id: Digest,
    reason: &str,
    rollback_error: Option<String>,
) -> Result<()> {
    let action =
        if rollback_error.is_some() { GateAction::RollbackFailed } else { GateAction::Kept };
    let failure = Failure {
        reason: reason.to_owned(),
        way_back: rollback_error.clone(),
        at: Timestamp::now(),
    };
    let dir = agent.dir.clone();
    let record = move || {
        let record = Unproven::read(&dir).filter(|record| record.is_of(Some(id)));
        let record = record.unwrap_or_else(|| Unproven::new(id, None));
        let record = Unproven { failure: Some(failure), ..record };
        record.write(&dir)?;
        Ok::<_, Error>(record)
    };
    let record = blocking::run(record).await?;
    agent.reports.rejected(id, record.to_text());
    note_failure(agent, reason, action, rollback_error).await;
    Ok(())
}

async fn note_failure(agent: &Agent, reason: &str, action: GateAction, error: Option<String>) {
    let (report, reason) = (agent.report.clone(), reason.to_owned());
    let update = move || {
        report.update(|report| {
            let gate = report.health.take().unwrap_or_default();
            report.health = Some(gate.failed(&reason, action, error));
        });
    };
    blocking::run(update).await;
}
