//! Remembers facts for the polling loop from one cycle to the next, and decides how long the loop
//! waits.

use std::path::Path;
use std::time::{Duration, Instant};

use deploy_store::Digest;
use jiff::Timestamp;

use crate::agent::Agent;
use crate::backoff::{Backoff, jittered, random_fraction};
use crate::blocking;
use crate::control::control_socket::{Asked, Control};
use crate::control::handler::{self, Next};
use crate::control::protocol::Answer;
use crate::control::sync_answer;
use crate::cycle::{self, Outcome, deploy_previous};
use crate::error::{Error, Result};
use crate::fetch::registry_session::Session;
use crate::poll::held_log::{log_held, log_host_held, rejection};
use crate::poll::script_backoff::ScriptBackoff;
use crate::records::agent_report::Report;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unsettled;
use crate::stop::Signal;

/// First wait after a failure. If `-poll` is shorter, `-poll` applies.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures. If `-poll` is longer, `-poll` applies.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two polls while a watch is live. If `-poll` is longer, `-poll` applies.
const POLL_BESIDE_WATCH: Duration = Duration::from_secs(5 * 60);

/// The facts that the polling loop remembers from one cycle to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// Number of failed cycles in a row.
    failures: u32,
    /// The script that failed last, unless it has succeeded since then.
    pub(super) script: Option<ScriptBackoff>,
    /// Whether the last cycle found the registry's configuration held. If so, the agent has already
    /// logged the hold.
    is_held: bool,
    /// Time of the last sweep of the cache.
    pub(super) swept: Option<Instant>,
    /// Id of the registry's configuration at the last poll.
    pub(super) offered: Option<Digest>,
    /// Number of the last offer that a cycle has seen.
    seen: u64,
    /// Time of the last poll over sftp.
    polled: Option<Instant>,
    /// Number of retries that operators have requested and that the agent has made.
    retries: u64,
    /// Why an operator holds the host. The agent has already logged this reason.
    host_held: Option<String>,
}

/// Why the loop stops waiting.
#[derive(Debug)]
pub(super) enum Woken {
    /// Run a cycle, and answer the request, if any, with the result.
    Cycle(Option<Asked>),
    /// A signal ends the agent.
    Stop(Signal),
}

impl Memory {
    pub(super) fn new(dir: &Path) -> Self {
        let polled = Some(Instant::now());
        Self { retries: Report::read(dir).retries, polled, ..Self::default() }
    }

    /// Takes the registry's last offer for the next cycle, and decides whether that cycle polls the
    /// registry over sftp. `asked` says whether a subcommand asked for a poll.
    pub(super) async fn take_offer(&mut self, agent: &Agent, poll: Duration, asked: bool) {
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

    /// Ends the hold after a rollback, and forgets failures, because an operator asked for another
    /// try.
    async fn retry(&mut self, agent: &Agent, retries: u64) {
        tracing::info!(
            event = "retry",
            retries,
            "an operator asked for another try: the agent ends a hold after a rollback, and a \
             failed script or a failed health gate runs again"
        );
        (self.script, self.is_held, self.retries) = (None, false, retries);
        let (dir, report) = (agent.dir.clone(), agent.report.clone());
        let forget = move || {
            deploy_previous::release(&dir)?;
            report.update(|report| report.retries = retries);
            Ok::<_, deploy_store::Error>(())
        };
        if let Err(err) = blocking::run(forget).await {
            tracing::warn!("cannot end the hold: {err}");
        }
    }

    /// Waits until the next cycle is due, and serves requests during the wait. A new offer ends the
    /// wait. After the loss of the watch, the agent waits at most about the time of `-poll`.
    pub(super) async fn idle(
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
                            self.try_again(agent).await;
                            return Woken::Cycle(Some(asked));
                        }
                    }
                }
            }
        }
    }

    /// Lets a failed script or a failed health gate run again now, because somebody asked for a
    /// poll and may have repaired the cause of the failure.
    async fn try_again(&mut self, agent: &Agent) {
        if let Some(script) = &mut self.script {
            script.mark_rerun();
        }
        if let Err(err) = cycle::retry_rejected(agent).await {
            tracing::warn!("cannot run the health gate again: {err}");
        }
    }

    /// Makes the answer to a `sync` whose cycle had the result `ended`.
    pub(super) fn answer(&self, agent: &Agent, ended: &Result<Outcome>) -> Answer {
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
            // A rollback, a release or a repair ends the wait for the next run of a failed script.
            // A rollback or a release also changes the hold.
            (self.script, self.is_held) = (None, false);
        }
        next
    }

    /// Logs and remembers the result of a cycle. Returns the time until the next cycle.
    pub(super) async fn after(
        &mut self,
        agent: &Agent,
        session: &mut Session,
        poll: Duration,
        ended: Result<Outcome>,
    ) -> Duration {
        let is_live = agent.offers.received().is_live;
        let usual = if is_live { poll.max(POLL_BESIDE_WATCH) } else { poll };
        let usual = jittered(usual, random_fraction());
        let is_held = matches!(ended, Ok(Outcome::RolledBack | Outcome::Rejected));
        if is_held && !self.is_held {
            log_held(&ended, &agent.dir, self.offered);
        }
        self.is_held = is_held;
        match ended {
            Ok(Outcome::Held) => {
                self.failures = 0;
                self.script.as_ref().map_or(Duration::ZERO, ScriptBackoff::remaining).min(usual)
            }
            Ok(Outcome::Superseded | Outcome::Undecided) => Duration::ZERO,
            Ok(
                Outcome::UpToDate
                | Outcome::Switched
                | Outcome::RolledBack
                | Outcome::Rejected
                | Outcome::HostHeld
                | Outcome::Staged,
            ) => {
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

fn after_failure(session: &mut Session, failures: u32, poll: Duration, err: &Error) -> Duration {
    if matches!(err, Error::Registry(_) | Error::Download { .. }) {
        session.forget();
    }
    let backoff = Backoff { first: FIRST_WAIT.min(poll), cap: LONGEST_WAIT.max(poll) };
    backoff.delay(failures, random_fraction())
}

/// Records for `status` when the script runs again. Nothing else depends on that time.
async fn record_next_run(dir: &Path, wait: Duration) {
    let Ok(at) = Timestamp::now().checked_add(wait) else { return };
    let dir = dir.to_owned();
    if let Err(err) = blocking::run(move || unsettled::set_next_run(&dir, at)).await {
        tracing::debug!("cannot record when the script runs again: {err}");
    }
}
