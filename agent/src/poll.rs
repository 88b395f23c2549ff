//! The loop around the cycle: when to look again, and after what failed, later.

use std::time::{Duration, Instant};

use deploy_store::Configuration;
use deploy_wire::client::ClientError;

use crate::backoff::{Backoff, jittered, random_fraction};
use crate::cycle::{self, Agent, Change, Outcome};
use crate::error::{Error, Result};
use crate::report::Report;
use crate::session::Session;
use crate::sweep;

/// First wait after a failure, if polls are not more frequent.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures, if polls are not rarer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest wait before a failing script is run again, if polls are not rarer.
const LONGEST_SCRIPT_WAIT: Duration = Duration::from_secs(15 * 60);
/// Time between two sweeps of the cache when nothing new is deployed.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// A configuration whose script failed.
struct Held {
    target: Configuration,
    failures: u32,
    until: Instant,
}

/// Runs cycles until the agent is told to end; returns the signal's name. Only a key that
/// cannot be used, when it is first tried, is an error: all else may get better.
pub async fn run(agent: &Agent, session: &mut Session, poll: Duration) -> Result<&'static str> {
    let mut failures = 0;
    let mut first = true;
    let mut held: Option<Held> = None;
    let mut swept = None;
    loop {
        let waiting = held.as_ref().filter(|held| held.until > Instant::now());
        let waiting = waiting.map(|held| &held.target);
        let ended = tokio::select! {
            ended = cycle_and_sweep(agent, session, waiting, &mut swept) => ended,
            signal = agent.stop.requested_when_idle() => return Ok(signal),
        };
        report(agent, &ended);
        let wait = match ended {
            Ok(Outcome::Held) => {
                failures = 0;
                until(held.as_ref()).min(jittered(poll, random_fraction()))
            }
            Ok(Outcome::UpToDate | Outcome::Switched) => {
                (failures, held) = (0, None);
                jittered(poll, random_fraction())
            }
            Err(Error::Script { target, cause }) => {
                failures = 0;
                held = Some(hold(held, *target, poll));
                let wait = until(held.as_ref());
                tracing::error!(
                    event = "script_failed",
                    id = held.as_ref().map(|held| held.target.id().to_string()),
                    "script {cause}; it is run again in {wait:.0?} or for a new configuration"
                );
                wait.min(jittered(poll, random_fraction()))
            }
            Err(err @ Error::Registry(ClientError::KeyFile { .. })) if first => return Err(err),
            Err(err) => {
                failures += 1;
                let wait = after_failure(session, failures, poll, &err);
                tracing::error!(event = "cycle_failed", "{err}; next try in {wait:.1?}");
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            signal = agent.stop.requested() => return Ok(signal),
        }
        first = false;
    }
}

/// A cycle and, when it found nothing to do, from time to time a sweep.
async fn cycle_and_sweep(
    agent: &Agent,
    session: &mut Session,
    held: Option<&Configuration>,
    swept: &mut Option<Instant>,
) -> Result<Outcome> {
    let outcome = cycle::run(agent, session, held).await?;
    let due = swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY);
    if due && outcome == Outcome::UpToDate {
        sweep::cache(agent).await;
        *swept = Some(Instant::now());
    }
    Ok(outcome)
}

/// Runs one cycle. `None` when the agent was told to end before it was through.
pub async fn once(agent: &Agent, session: &mut Session) -> Result<Outcome, Stopped> {
    let ended = tokio::select! {
        ended = cycle::run(agent, session, None) => ended,
        signal = agent.stop.requested_when_idle() => return Err(Stopped::Signal(signal)),
    };
    report(agent, &ended);
    ended.map_err(|err| Stopped::Error(Box::new(err)))
}

/// Why a single cycle did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal came first.
    #[error("{0}")]
    Signal(&'static str),
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

/// Holds `target` after its script failed: longer each time, from anew for another target.
fn hold(held: Option<Held>, target: Configuration, poll: Duration) -> Held {
    let same = held.filter(|held| Change::between(Some(&held.target), &target) == Change::None);
    let failures = same.map_or(0, |held| held.failures) + 1;
    let backoff = Backoff { first: 2 * poll, cap: LONGEST_SCRIPT_WAIT.max(poll) };
    let until = Instant::now() + backoff.delay(failures, random_fraction());
    Held { target, failures, until }
}

fn until(held: Option<&Held>) -> Duration {
    held.map_or(Duration::ZERO, |held| held.until.saturating_duration_since(Instant::now()))
}

fn report(agent: &Agent, ended: &Result<Outcome>) {
    match ended {
        Ok(Outcome::Held) => {}
        Ok(Outcome::UpToDate | Outcome::Switched) => {
            Report::update(&agent.dir, |report| report.error = None);
        }
        Err(err) => Report::update(&agent.dir, |report| report.error = Some(err.to_string())),
    }
}
