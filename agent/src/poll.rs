//! The polling loop: it runs cycles, waits longer after failures, and serves requests in between.

pub mod backoff;
mod script_backoff;

use std::path::Path;
use std::time::{Duration, Instant};

use deploy_store::Digest;
use deploy_wire::client::ClientError;
use jiff::Timestamp;

use crate::agent::Agent;
use crate::blocking;
use crate::control::control_socket::{Asked, Control};
use crate::control::handler::{self, Next};
use crate::control::protocol::Answer;
use crate::control::sync_answer;
use crate::cycle::{self, Outcome};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::poll::backoff::{Backoff, jittered, random_fraction};
use crate::poll::script_backoff::ScriptBackoff;
use crate::progress_log;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::Unproven;
use crate::records::unsettled;
use crate::space::background_sweep;
use crate::stop::Signal;

/// First wait after a failure, unless polls are more frequent.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures, unless polls are rarer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two sweeps of the cache if nothing new is deployed.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Minimum time between two sweeps if something new is deployed. A sweep looks at every object, and
/// only removes objects older than an hour.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(10 * 60);

/// What the loop remembers from one cycle to the next.
#[derive(Default)]
struct Memory {
    /// Number of cycles that failed in a row.
    failures: u32,
    /// The script that failed last, if it did not succeed since.
    script: Option<ScriptBackoff>,
    /// Whether the registry's configuration is held, and that was logged.
    is_held: bool,
    /// Time of the last sweep of the cache.
    swept: Option<Instant>,
    /// Id of the registry's configuration at the last poll.
    offered: Option<Digest>,
}

/// Runs cycles, and serves requests between them, until a signal ends the agent; returns the signal.
/// Only an unusable key on the first attempt is an error: everything else may recover.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    poll: Duration,
    control: &mut Control,
) -> Result<Signal> {
    let mut memory = Memory::default();
    let mut first = true;
    let mut asked: Option<Asked> = None;
    loop {
        let ended = tokio::select! {
            ended = cycle_and_sweep(agent, session, &mut memory) => ended,
            () = progress_log::log(agent) => unreachable!("it never returns"),
            signal = agent.stop.requested_when_idle() => return Ok(signal),
        };
        report(agent, &ended, memory.offered).await;
        if matches!(&ended, Err(Error::Registry(ClientError::KeyFile { .. })) if first) {
            let Err(err) = ended else { unreachable!("the cycle failed") };
            return Err(err);
        }
        let answered = memory.answer(agent, &ended);
        let is_undecided = matches!(ended, Ok(Outcome::Undecided));
        let wait = memory.after(&agent.dir, session, poll, ended).await;
        first = false;
        if is_undecided {
            continue;
        }
        if let Some(asked) = asked.take() {
            asked.answer(answered);
        }
        let due = Instant::now() + wait;
        asked = loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => break None,
                signal = agent.stop.requested() => return Ok(signal),
                request = control.next() => {
                    let next = tokio::select! {
                        next = memory.serve(agent, session, request) => next,
                        signal = agent.stop.requested_when_idle() => return Ok(signal),
                    };
                    match next {
                        Next::Wait => {}
                        Next::Poll => break None,
                        Next::Sync(asked) => {
                            memory.try_again(agent).await;
                            break Some(asked);
                        }
                    }
                }
            }
        };
    }
}

impl Memory {
    /// Ends all waiting: somebody asked for a poll, and may have repaired the cause.
    async fn try_again(&mut self, agent: &Agent) {
        if let Some(script) = &mut self.script {
            script.mark_rerun();
        }
        if let Err(err) = cycle::retry_rejected(agent).await {
            tracing::warn!("the health gate does not run again: {err}");
        }
    }

    /// The answer to a `sync` whose cycle had this result.
    fn answer(&self, agent: &Agent, ended: &Result<Outcome>) -> Answer {
        let hold = RollbackHold::read(&agent.dir).ok().flatten();
        let left = unsettled::read(&agent.dir);
        let waits = match ended {
            Ok(Outcome::Rejected) => rejection(&agent.dir),
            _ => self.script.as_ref().map(ScriptBackoff::reason),
        };
        sync_answer::answer(ended, self.offered, waits, hold, left.as_ref())
    }

    async fn serve(&mut self, agent: &Agent, session: &mut Session, asked: Asked) -> Next {
        let pending = self.script.as_ref().map(|script| script.target().clone());
        let next = handler::serve(agent, session, asked, pending.as_ref(), self.offered).await;
        if matches!(next, Next::Poll) {
            // A rollback or a release changes the hold and the wait for a failed script.
            (self.script, self.is_held) = (None, false);
        }
        next
    }

    /// Logs the result of a cycle, and remembers it. Returns the time until the next cycle.
    async fn after(
        &mut self,
        dir: &Path,
        session: &mut Session,
        poll: Duration,
        ended: Result<Outcome>,
    ) -> Duration {
        let usual = jittered(poll, random_fraction());
        let is_held = matches!(ended, Ok(Outcome::RolledBack | Outcome::Rejected));
        if is_held && !self.is_held {
            log_held(&ended, dir, self.offered);
        }
        self.is_held = is_held;
        match ended {
            Ok(Outcome::Held) => {
                self.failures = 0;
                self.script.as_ref().map_or(Duration::ZERO, ScriptBackoff::remaining).min(usual)
            }
            Ok(Outcome::Undecided) => Duration::ZERO,
            Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack | Outcome::Rejected) => {
                if self.failures > 0 {
                    let failures = self.failures;
                    tracing::info!(event = "recovered", failures, "the cycle succeeds again");
                }
                (self.failures, self.script) = (0, None);
                usual
            }
            Err(err @ Error::Script { .. }) => {
                self.failures = 0;
                let cause = err.to_string();
                let Error::Script { target, .. } = err else { return usual };
                let script = ScriptBackoff::after(self.script.take(), *target, poll, cause);
                let wait = script.remaining();
                record_next_run(dir, wait).await;
                let id = script.target().id();
                tracing::error!(event = "script_failed", %id, "{}", script.failure(wait));
                self.script = Some(script);
                wait.min(usual)
            }
            Err(err) => {
                self.failures += 1;
                let wait = after_failure(session, self.failures, poll, &err);
                tracing::error!(event = "cycle_failed", "{err}; next try in {wait:.1?}");
                wait
            }
        }
    }
}

/// Runs a cycle, and from time to time a sweep of the cache, more often after a deploy.
async fn cycle_and_sweep(
    agent: &Agent,
    session: &mut Session,
    memory: &mut Memory,
) -> Result<Outcome> {
    let waiting = memory.script.as_ref().filter(|script| script.is_waiting());
    let waiting = waiting.map(ScriptBackoff::target);
    let outcome = cycle::run(agent, session, waiting, &mut memory.offered).await?;
    let pause = match outcome {
        Outcome::UpToDate | Outcome::RolledBack | Outcome::Rejected => SWEEP_EVERY,
        Outcome::Switched => SWEEP_AT_MOST_EVERY,
        Outcome::Held | Outcome::Undecided => return Ok(outcome),
    };
    if memory.swept.is_none_or(|at| at.elapsed() > pause) {
        background_sweep::cache(agent).await;
        memory.swept = Some(Instant::now());
    }
    Ok(outcome)
}

/// Runs one cycle, and a sweep of the cache after a deploy.
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

/// Runs cycles until one is not interrupted by a newer configuration.
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

/// Why the deployed configuration is rejected, if it is.
fn rejection(dir: &Path) -> Option<String> {
    let failure = Unproven::read(dir)?.failure?;
    Some(format!(
        "{}; nothing is deployed until the registry's configuration changes, or until sync or \
         rollback -release",
        failure.to_text()
    ))
}

fn log_held(ended: &Result<Outcome>, dir: &Path, offered: Option<Digest>) {
    let id = offered.map(|id| id.to_string());
    if matches!(ended, Ok(Outcome::Rejected)) {
        let reason = rejection(dir).unwrap_or_default();
        tracing::info!(
            event = "held",
            id,
            "the registry's configuration is deployed, but not healthy: {reason}"
        );
        return;
    }
    tracing::info!(
        event = "held",
        id,
        "the registry's configuration is held after a rollback, until it changes or until rollback \
         -release"
    );
}

/// Why a single cycle failed.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal came first.
    #[error("{0}")]
    Signal(Signal),
    /// The cycle failed.
    #[error(transparent)]
    Error(Box<Error>),
}

fn after_failure(session: &mut Session, failures: u32, poll: Duration, err: &Error) -> Duration {
    if matches!(err, Error::Registry(_) | Error::Download { .. }) {
        session.forget();
    }
    let backoff = Backoff { first: FIRST_WAIT.min(poll), cap: LONGEST_WAIT.max(poll) };
    backoff.delay(failures, random_fraction())
}

/// Records for `status` when the script is run again. Nothing else depends on that time.
async fn record_next_run(dir: &Path, wait: Duration) {
    let Ok(at) = Timestamp::now().checked_add(wait) else { return };
    let dir = dir.to_owned();
    if let Err(err) = blocking::run(move || unsettled::set_next_run(&dir, at)).await {
        tracing::debug!("cannot record when the script is run again: {err}");
    }
}

async fn report(agent: &Agent, ended: &Result<Outcome>, offered: Option<Digest>) {
    let offered = offered.map(|id| id.to_string());
    let error = match ended {
        Ok(Outcome::Held | Outcome::Undecided) => None,
        Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack | Outcome::Rejected) => {
            Some(None)
        }
        Err(err) => Some(Some(err.to_string())),
    };
    // Otherwise that configuration is deployed or held, and nothing has to be written.
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
