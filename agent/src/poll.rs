//! Runs the polling loop, which runs cycles, waits longer after failures, and serves requests
//! between cycles.

mod held_log;
mod memory;
mod script_backoff;

use std::time::{Duration, Instant};

use deploy_store::Digest;
use deploy_wire::client::ClientError;

use crate::agent::Agent;
use crate::blocking;
use crate::control::control_socket::{Asked, Control};
use crate::cycle::{self, Outcome};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::poll::held_log::log_held;
use crate::poll::memory::{Memory, Woken};
use crate::poll::script_backoff::ScriptBackoff;
use crate::progress_log;
use crate::space::background_sweep;
use crate::stop::Signal;

/// Time between two sweeps of the cache if no new configuration is deployed.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Minimum time between two sweeps if a new configuration is deployed. More frequent sweeps would
/// gain little: each sweep lists every object, but keeps objects that are younger than an hour.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(10 * 60);
/// Longest time that the agent waits for the registry's first offer before the first cycle.
const FIRST_OFFER: Duration = Duration::from_secs(5);

/// Runs cycles, and serves requests between the cycles, until a signal ends the agent. Returns the
/// signal. An unusable key in the first cycle is an error. After any other failure the loop
/// continues, because the failure may be temporary.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    poll: Duration,
    control: &mut Control,
) -> Result<Signal> {
    let mut memory = Memory::new(&agent.dir);
    let mut first = true;
    let mut asked: Option<Asked> = None;
    tokio::select! {
        // If an operator holds the host, the agent must not deploy. Only an offer says whether the
        // host is held, so the agent waits for the first offer.
        _ = tokio::time::timeout(FIRST_OFFER, agent.offers.settled()) => {}
        signal = agent.stop.requested() => return Ok(signal),
    }
    loop {
        memory.take_offer(agent, poll, asked.is_some()).await;
        let ended = tokio::select! {
            ended = cycle_and_sweep(agent, session, &mut memory) => ended,
            () = progress_log::log(agent) => unreachable!("progress_log::log never returns"),
            signal = agent.stop.requested_when_idle() => return Ok(signal),
        };
        report(agent, &ended, memory.offered).await;
        if matches!(&ended, Err(Error::Registry(ClientError::KeyFile { .. })) if first) {
            let Err(err) = ended else { unreachable!("the cycle failed") };
            return Err(err);
        }
        let answered = memory.answer(agent, &ended);
        let is_undecided = matches!(ended, Ok(Outcome::Undecided));
        let wait = memory.after(agent, session, poll, ended).await;
        first = false;
        if is_undecided {
            // The request stays open, and a later cycle answers the request.
            continue;
        }
        if let Some(asked) = asked.take() {
            asked.answer(answered);
        }
        asked = match memory.idle(agent, session, control, poll, wait).await {
            Woken::Cycle(asked) => asked,
            Woken::Stop(signal) => return Ok(signal),
        };
    }
}

/// Runs a cycle. Also sweeps the cache from time to time, and more often after deploys.
async fn cycle_and_sweep(
    agent: &Agent,
    session: &mut Session,
    memory: &mut Memory,
) -> Result<Outcome> {
    let waiting = memory.script.as_ref().filter(|script| script.is_waiting());
    let waiting = waiting.map(ScriptBackoff::target);
    let outcome = cycle::run(agent, session, waiting, &mut memory.offered).await?;
    let pause = match outcome {
        Outcome::UpToDate | Outcome::RolledBack | Outcome::Rejected | Outcome::HostHeld => {
            SWEEP_EVERY
        }
        Outcome::Switched => SWEEP_AT_MOST_EVERY,
        Outcome::Held | Outcome::Superseded | Outcome::Staged | Outcome::Undecided => {
            return Ok(outcome);
        }
    };
    if memory.swept.is_none_or(|at| at.elapsed() > pause) {
        background_sweep::cache(agent).await;
        memory.swept = Some(Instant::now());
    }
    Ok(outcome)
}

/// Runs one cycle. If the cycle deployed a configuration, also sweeps the cache.
pub async fn once(agent: &Agent, session: &mut Session) -> Result<Outcome, Stopped> {
    let mut offered = None;
    let ended = tokio::select! {
        ended = decided_cycle(agent, session, &mut offered) => ended,
        signal = agent.stop.requested_when_idle() => return Err(Stopped::Signal(signal)),
    };
    report(agent, &ended, offered).await;
    if matches!(ended, Ok(Outcome::Switched)) {
        background_sweep::cache(agent).await;
    }
    if matches!(ended, Ok(Outcome::Held | Outcome::RolledBack | Outcome::Rejected)) {
        log_held(&ended, &agent.dir, offered);
    }
    ended.map_err(|err| Stopped::Error(Box::new(err)))
}

/// Runs a cycle. If a newer configuration interrupts the health gate of the cycle, runs another
/// cycle.
async fn decided_cycle(
    agent: &Agent,
    session: &mut Session,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    loop {
        match cycle::run(agent, session, None, offered).await {
            Ok(Outcome::Undecided) => {}
            other => return other,
        }
    }
}

/// Why [`once`] returns no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal arrived before the cycle ended.
    #[error("{0}")]
    Signal(Signal),
    /// The cycle failed.
    #[error(transparent)]
    Error(Box<Error>),
}

async fn report(agent: &Agent, ended: &Result<Outcome>, offered: Option<Digest>) {
    if let Err(err) = ended {
        agent.reports.failed(err, offered);
    }
    let offered = offered.map(|id| id.to_string());
    let error = match ended {
        Ok(Outcome::Held | Outcome::Superseded | Outcome::Staged | Outcome::Undecided) => None,
        Ok(
            Outcome::UpToDate
            | Outcome::Switched
            | Outcome::RolledBack
            | Outcome::Rejected
            | Outcome::HostHeld,
        ) => Some(None),
        Err(err) => Some(Some(err.to_string())),
    };
    // The report names the registry's configuration in three cases: after a failure, during the
    // wait before a failed script runs again, and while the configuration is rejected.
    let waits = matches!(ended, Ok(Outcome::Held | Outcome::Rejected) | Err(_));
    let report = agent.report.clone();
    let update = move || {
        report.update(|report| {
            if let Some(error) = error {
                report.error = error;
            }
            report.offered = offered.or(report.offered.take()).filter(|_| waits);
        });
    };
    blocking::run(update).await;
}
