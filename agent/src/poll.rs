//! The polling loop: runs cycles, waits longer after failures, and serves requests between cycles.

mod script_backoff;

use std::path::Path;
use std::time::{Duration, Instant};

use deploy_store::Digest;
use deploy_wire::client::ClientError;
use jiff::Timestamp;

use crate::agent::Agent;
use crate::backoff::{Backoff, jittered, random_fraction};
use crate::blocking;
use crate::control::control_socket::{Asked, Control};
use crate::control::handler::{self, Next};
use crate::control::protocol::Answer;
use crate::control::sync_answer;
use crate::cycle::{self, Outcome};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::poll::script_backoff::ScriptBackoff;
use crate::progress_log;
use crate::records::agent_report::Report;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unsettled;
use crate::space::background_sweep;
use crate::stop::Signal;

/// First wait after a failure; shorter if polls are more frequent.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures; longer if polls are less frequent.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two sweeps of the cache if nothing new is deployed.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// Minimum time between two sweeps if something new is deployed. A sweep looks at every object, but
/// removes only objects that are older than an hour.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(10 * 60);
/// Time between two polls while a watch is live; longer if polls are less frequent.
const POLL_BESIDE_WATCH: Duration = Duration::from_secs(5 * 60);
/// Longest time that the first cycle waits for the registry's first offer.
const FIRST_OFFER: Duration = Duration::from_secs(5);

/// What the loop remembers from one cycle to the next.
#[derive(Default)]
struct Memory {
    /// Number of cycles that failed in a row.
    failures: u32,
    /// The script that failed last, unless it has succeeded since then.
    script: Option<ScriptBackoff>,
    /// Whether the log already says that a rollback holds the registry's configuration.
    rolled_back: bool,
    /// Time of the last sweep of the cache.
    swept: Option<Instant>,
    /// Id of the registry's configuration at the last poll.
    offered: Option<Digest>,
    /// Number of the last offer that a cycle has seen.
    seen: u64,
    /// Time of the last poll over sftp.
    polled: Option<Instant>,
    /// How often operators had asked for another try.
    retries: u64,
    /// Why an operator holds the host, as the log says already.
    host_held: Option<String>,
}

/// Runs cycles, and serves requests between them, until a signal ends the agent. Returns the
/// signal. Only an unusable key in the first cycle is an error, because other failures may be
/// temporary.
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
        // A held host must not deploy, and only the offer says that the host is held.
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
        let wait = memory.after(agent, session, poll, ended).await;
        if let Some(asked) = asked.take() {
            asked.answer(answered);
        }
        first = false;
        asked = match memory.idle(agent, session, control, poll, wait).await {
            Woken::Cycle(asked) => asked,
            Woken::Stop(signal) => return Ok(signal),
        };
    }
}

/// Why the loop does not wait any longer.
enum Woken {
    /// Run a cycle, and answer the request with its result.
    Cycle(Option<Asked>),
    /// A signal ends the agent.
    Stop(Signal),
}

impl Memory {
    fn new(dir: &Path) -> Self {
        let polled = Some(Instant::now());
        Self { retries: Report::read(dir).retries, polled, ..Self::default() }
    }

    /// Takes the registry's last offer for the next cycle, and decides whether that cycle polls.
    /// `asked`: somebody asked for a poll.
    async fn take_offer(&mut self, agent: &Agent, poll: Duration, asked: bool) {
        let received = agent.offers.received();
        self.seen = received.count;
        let due = |at: Instant| at.elapsed() >= poll.max(POLL_BESIDE_WATCH);
        let by_sftp = asked || !received.is_live || self.polled.is_none_or(due);
        if by_sftp {
            self.polled = Some(Instant::now());
        }
        agent.offers.ask_by_sftp(by_sftp);
        let Some(offer) = received.offer else { return };
        if offer.held != self.host_held {
            log_host_held(offer.held.as_deref());
            self.host_held.clone_from(&offer.held);
        }
        if offer.retries > self.retries {
            self.retry(agent, offer.retries).await;
        }
    }

    /// Forgets what is held and what failed, because an operator asked for another try.
    async fn retry(&mut self, agent: &Agent, retries: u64) {
        tracing::info!(
            event = "retry",
            retries,
            "an operator asked for another try: nothing is held any more, and a failed script runs again"
        );
        (self.script, self.rolled_back, self.retries) = (None, false, retries);
        let (dir, report) = (agent.dir.clone(), agent.report.clone());
        let forget = move || {
            RollbackHold::lift(&dir)?;
            report.update(|report| report.retries = retries);
            Ok::<_, deploy_store::Error>(())
        };
        if let Err(err) = blocking::run(forget).await {
            tracing::warn!("the hold after a rollback stays: {err}");
        }
    }

    /// Waits for the time of the next cycle, and serves requests meanwhile. A new offer, or the loss
    /// of the watch, ends the wait earlier.
    async fn idle(
        &mut self,
        agent: &Agent,
        session: &mut Session,
        control: &mut Control,
        poll: Duration,
        wait: Duration,
    ) -> Woken {
        let mut due = Instant::now() + wait;
        let mut offers = agent.offers.changed();
        let mut was_live = offers.borrow().is_live;
        loop {
            let (count, is_live) = {
                let received = offers.borrow_and_update();
                (received.count, received.is_live)
            };
            if count != self.seen {
                return Woken::Cycle(None);
            }
            if was_live && !is_live {
                due = due.min(Instant::now() + jittered(poll, random_fraction()));
            }
            was_live = is_live;
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return Woken::Cycle(None),
                signal = agent.stop.requested() => return Woken::Stop(signal),
                _ = offers.changed() => {}
                request = control.next() => {
                    let next = tokio::select! {
                        next = self.serve(agent, session, request) => next,
                        signal = agent.stop.requested_when_idle() => return Woken::Stop(signal),
                    };
                    match next {
                        Next::Wait => {}
                        Next::Poll => return Woken::Cycle(None),
                        Next::Sync(asked) => {
                            if let Some(script) = &mut self.script {
                                script.mark_rerun();
                            }
                            return Woken::Cycle(Some(asked));
                        }
                    }
                }
            }
        }
    }

    /// The answer to a `sync` whose cycle had the result `ended`.
    fn answer(&self, agent: &Agent, ended: &Result<Outcome>) -> Answer {
        let hold = RollbackHold::read(&agent.dir).ok().flatten();
        let left = unsettled::read(&agent.dir);
        let waits = self.script.as_ref().map(ScriptBackoff::reason);
        sync_answer::answer(ended, self.offered, waits, hold, left.as_ref())
    }

    async fn serve(&mut self, agent: &Agent, session: &mut Session, asked: Asked) -> Next {
        let pending = self.script.as_ref().map(|script| script.target().clone());
        let next = handler::serve(agent, session, asked, pending.as_ref(), self.offered).await;
        if matches!(next, Next::Poll) {
            // A rollback or a release changes the hold and the wait for a failed script.
            (self.script, self.rolled_back) = (None, false);
        }
        next
    }

    /// Logs the result of a cycle, and remembers it. Returns the time until the next cycle.
    async fn after(
        &mut self,
        agent: &Agent,
        session: &mut Session,
        poll: Duration,
        ended: Result<Outcome>,
    ) -> Duration {
        let is_live = agent.offers.received().is_live;
        let usual = if is_live { poll.max(POLL_BESIDE_WATCH) } else { poll };
        let usual = jittered(usual, random_fraction());
        let rolled_back = matches!(ended, Ok(Outcome::RolledBack));
        if rolled_back && !self.rolled_back {
            log_held(self.offered);
        }
        self.rolled_back = rolled_back;
        match ended {
            Ok(Outcome::Held) => {
                self.failures = 0;
                self.script.as_ref().map_or(Duration::ZERO, ScriptBackoff::remaining).min(usual)
            }
            Ok(Outcome::Superseded) => Duration::ZERO,
            Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack | Outcome::HostHeld) => {
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
                record_next_run(&agent.dir, wait).await;
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

/// Runs a cycle. From time to time, also sweeps the cache, more often after a deploy.
async fn cycle_and_sweep(
    agent: &Agent,
    session: &mut Session,
    memory: &mut Memory,
) -> Result<Outcome> {
    let waiting = memory.script.as_ref().filter(|script| script.is_waiting());
    let waiting = waiting.map(ScriptBackoff::target);
    let outcome = cycle::run(agent, session, waiting, &mut memory.offered).await?;
    let pause = match outcome {
        Outcome::UpToDate | Outcome::RolledBack | Outcome::HostHeld => SWEEP_EVERY,
        Outcome::Switched => SWEEP_AT_MOST_EVERY,
        Outcome::Held | Outcome::Superseded => return Ok(outcome),
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
        ended = cycle::run(agent, session, None, &mut offered) => ended,
        signal = agent.stop.requested_when_idle() => return Err(Stopped::Signal(signal)),
    };
    report(agent, &ended, offered).await;
    if matches!(ended, Ok(Outcome::Switched)) {
        background_sweep::cache(agent).await;
    }
    if matches!(ended, Ok(Outcome::Held | Outcome::RolledBack)) {
        log_held(offered);
    }
    ended.map_err(|err| Stopped::Error(Box::new(err)))
}

fn log_held(offered: Option<Digest>) {
    tracing::info!(
        event = "held",
        id = offered.map(|id| id.to_string()),
        "the registry's configuration is held after a rollback, until it changes or until rollback \
         -release"
    );
}

fn log_host_held(why: Option<&str>) {
    match why {
        Some(why) => tracing::info!(
            event = "host_held",
            "an operator holds this host: {why}; the agent deploys nothing new until the hold ends"
        ),
        None => tracing::info!(event = "host_released", "no operator holds this host any more"),
    }
}

/// Why a single cycle failed.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A signal arrived before the cycle ended.
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
    if let Err(err) = ended {
        agent.reports.failed(err, offered);
    }
    let offered = offered.map(|id| id.to_string());
    let error = match ended {
        Ok(Outcome::Held | Outcome::Superseded) => None,
        Ok(Outcome::UpToDate | Outcome::Switched | Outcome::RolledBack | Outcome::HostHeld) => {
            Some(None)
        }
        Err(err) => Some(Some(err.to_string())),
    };
    // The report has the registry's configuration only after a failure. Otherwise this
    // configuration is deployed or held, and nothing has to be written.
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
