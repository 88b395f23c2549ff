//! The loop around the cycle: when to look again, and after what failed, later; requests
//! are served in between.

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
use crate::records::unsettled;
use crate::space::background_sweep;
use crate::stop::Signal;

/// First wait after a failure, if polls are not more frequent.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures, if polls are not rarer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two sweeps of the cache when nothing new is deployed.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// The same when something is: it takes a look at every object, and what it removes has
/// been there for an hour.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(10 * 60);

/// What the loop remembers from one cycle to the next.
#[derive(Default)]
struct Memory {
    /// Cycles that failed in a row.
    failures: u32,
    script: Option<ScriptBackoff>,
    /// Whether what the registry has is held after a rollback, and that was told.
    rolled_back: bool,
    swept: Option<Instant>,
    /// Id of what the registry had at the last look.
    offered: Option<Digest>,
}

/// Runs cycles, and serves requests between them, until the agent is told to end; returns
/// the signal's name. Only a key that cannot be used, when it is first tried, is an error:
/// all else may get better.
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
            () = progress_log::log(agent) => unreachable!("it ends with the cycle"),
            signal = agent.stop.requested_when_idle() => return Ok(signal),
        };
        report(agent, &ended, memory.offered).await;
        if matches!(&ended, Err(Error::Registry(ClientError::KeyFile { .. })) if first) {
            let Err(err) = ended else { unreachable!("it failed") };
            return Err(err);
        }
        let answered = memory.answer(agent, &ended);
        let wait = memory.after(&agent.dir, session, poll, ended).await;
        if let Some(asked) = asked.take() {
            asked.answer(answered);
        }
        first = false;
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
                        Next::Look => break None,
                        Next::Sync(asked) => {
                            if let Some(script) = &mut memory.script {
                                script.mark_rerun();
                            }
                            break Some(asked);
                        }
                    }
                }
            }
        };
    }
}

impl Memory {
    /// The answer to a `sync` whose cycle ended so.
    fn answer(&self, agent: &Agent, ended: &Result<Outcome>) -> Answer {
        let hold = RollbackHold::read(&agent.dir).ok().flatten();
        let left = unsettled::read(&agent.dir);
        let waits = self.script.as_ref().map(ScriptBackoff::reason);
        sync_answer::answer(ended, self.offered, waits, hold, left.as_ref())
    }

    async fn serve(&mut self, agent: &Agent, session: &mut Session, asked: Asked) -> Next {
        let pending = self.script.as_ref().map(|script| script.target().clone());
        let next = handler::serve(agent, session, asked, pending.as_ref(), self.offered).await;
        if matches!(next, Next::Look) {
            // What waited for its script may be held now, and the other way round.
            (self.script, self.rolled_back) = (None, false);
        }
        next
    }

    /// Takes note of how a cycle ended. Returns the time until the next.
    async fn after(
        &mut self,
        dir: &Path,
        session: &mut Session,
        poll: Duration,
        ended: Result<Outcome>,
    ) -> Duration {
        let usual = jittered(poll, random_fraction());
        let rolled_back = matches!(ended, Ok(Outcome::RolledBack));
        if rolled_back && !self.rolled_back {
            tell_held(self.offered);
        }
        self.rolled_back = rolled_back;
        match ended {
            Ok(Outcome::Held) => {
                self.failures = 0;
                self.script.as_ref().map_or(Duration::ZERO, ScriptBackoff::remaining).min(usual)
            }
            Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack) => {
                if self.failures > 0 {
                    let failures = self.failures;
                    tracing::info!(event = "recovered", failures, "all is well again");
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

/// A cycle and from time to time, more often after a deploy, a sweep.
async fn cycle_and_sweep(
    agent: &Agent,
    session: &mut Session,
    memory: &mut Memory,
) -> Result<Outcome> {
    let waiting = memory.script.as_ref().filter(|script| script.is_waiting());
    let waiting = waiting.map(ScriptBackoff::target);
    let outcome = cycle::run(agent, session, waiting, &mut memory.offered).await?;
    let pause = match outcome {
        Outcome::UpToDate | Outcome::RolledBack => SWEEP_EVERY,
        Outcome::Switched => SWEEP_AT_MOST_EVERY,
        Outcome::Held => return Ok(outcome),
    };
    if memory.swept.is_none_or(|at| at.elapsed() > pause) {
        background_sweep::cache(agent).await;
        memory.swept = Some(Instant::now());
    }
    Ok(outcome)
}

/// Runs one cycle.
pub async fn once(agent: &Agent, session: &mut Session) -> Result<Outcome, Stopped> {
    let mut offered = None;
    let ended = tokio::select! {
        ended = cycle::run(agent, session, None, &mut offered) => ended,
        signal = agent.stop.requested_when_idle() => return Err(Stopped::Signal(signal)),
    };
    report(agent, &ended, offered).await;
    if matches!(ended, Ok(Outcome::Switched)) {
        background_sweep::cache(agent).await;
    }
    if matches!(ended, Ok(Outcome::Held | Outcome::RolledBack)) {
        tell_held(offered);
    }
    ended.map_err(|err| Stopped::Error(Box::new(err)))
}

fn tell_held(offered: Option<Digest>) {
    tracing::info!(
        event = "held",
        id = offered.map(|id| id.to_string()),
        "rolled back from what the registry has: it is held until that changes, or until rollback -release"
    );
}

/// Why a single cycle did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal came first.
    #[error("{0}")]
    Signal(Signal),
    /// It failed.
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
        tracing::debug!("no note of when the script is run again: {err}");
    }
}

async fn report(agent: &Agent, ended: &Result<Outcome>, offered: Option<Digest>) {
    let offered = offered.map(|id| id.to_string());
    let error = match ended {
        Ok(Outcome::Held) => None,
        Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack) => Some(None),
        Err(err) => Some(Some(err.to_string())),
    };
    // Otherwise that configuration is deployed or rolled back from, and nothing has to be written.
    let waits = matches!(ended, Ok(Outcome::Held) | Err(_));
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
