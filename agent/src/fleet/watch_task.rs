//! Keeps a watch open at the registry while the agent tracks a configuration. The watch receives
//! offers and sends reports. The watch uses the same connection as the polling loop. If the
//! connection is lost, the watch connects again.

use std::convert::Infallible;
use std::time::Duration;

use deploy_wire::client::{ClientError, WatchChannel};
use deploy_wire::fleet::lines::to_line;
use deploy_wire::fleet::{SILENCE, ToAgent, ToRegistry};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::random_fraction;
use crate::error::Error;
use crate::fetch::registry_session::Session;
use crate::fleet::conversation::{Conversation, Turn};
use crate::fleet::offers::Offers;
use crate::fleet::reporter::Reports;
use crate::records::agent_report::Reporter;

/// The maximum wait before the first attempt to connect again. The maximum doubles with each
/// further attempt.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The limit for the maximum wait before an attempt to connect again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The longest time over which a registry may spread its agents' attempts to connect again.
const LONGEST_SPREAD: Duration = Duration::from_secs(10 * 60);
/// The maximum pause after the registry has refused a watch. After the pause, the agent asks for a
/// watch again. A change of the connection ends the pause early.
const ASK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// A watch, and the parts of the agent that it uses.
#[derive(Debug)]
pub struct Watch {
    /// The connection.
    pub session: Session,
    /// The command line that begins the watch.
    pub line: String,
    /// Keeps the received offers.
    pub offers: Offers,
    /// The reports that the watch sends.
    pub reports: Reports,
    /// Signals every new offer.
    pub superseded: watch::Sender<()>,
    /// Writes the report that `status` reads.
    pub status: Reporter,
}

/// Why a watch ended.
#[derive(Debug)]
enum Ended {
    /// The registry refuses the command that begins a watch.
    Refused,
    /// The connection or the command ended, for this reason.
    Lost(String),
}

/// What the agent remembers from one watch to the next.
#[derive(Debug, Default)]
struct Memory {
    /// Number of attempts in a row that failed.
    failures: u32,
    /// The maximum wait before the agent connects again after the loss of a live watch; `None` if
    /// the registry set no such time.
    spread: Option<Duration>,
    /// Why the registry keeps no reports; `None` if the registry keeps them.
    refused: Option<String>,
}

impl Watch {
    /// Keeps a watch open until the future is dropped.
    pub async fn run(mut self) -> Infallible {
        let mut memory = Memory::default();
        loop {
            let began = Instant::now();
            let ended = self.once(&mut memory).await;
            let was_live = self.offers.received().is_live;
            match ended {
                Ended::Refused => {
                    tracing::debug!("the registry sends no changes to agents: the agent polls");
                    self.offers.clear();
                    self.pause_refused().await;
                }
                Ended::Lost(why) => {
                    self.offers.lose();
                    let wait = memory.wait(was_live, random_fraction());
                    if was_live {
                        let seconds = began.elapsed().as_secs();
                        tracing::info!(
                            event = "watch_lost",
                            seconds,
                            "the watch is closed: {why}; the agent opens a new watch in {wait:.1?}"
                        );
                    } else {
                        tracing::debug!("cannot watch the registry: {why}; next try in {wait:.1?}");
                    }
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits for a change of the connection, because a new connection may reach a newer registry
    /// that accepts a watch. Waits at most [`ASK_AGAIN`].
    async fn pause_refused(&self) {
        let mut changes = self.session.changes();
        let _ = timeout(ASK_AGAIN, changes.changed()).await;
    }

    async fn once(&mut self, memory: &mut Memory) -> Ended {
        let client = match self.session.client().await {
            Ok(client) => client,
            Err(err) => return Ended::Lost(err.to_string()),
        };
        let mut changes = self.session.changes();
        let mut channel = match client.watch(&self.line).await {
            Ok(channel) => channel,
            Err(ClientError::Refused { .. }) => return Ended::Refused,
            Err(err) => return Ended::Lost(err.to_string()),
        };
        let mut talk = Conversation::new(Instant::now());
        let mut reports = self.reports.changed();
        loop {
            reports.mark_unchanged();
            let waiting = self.reports.after(talk.sent());
            let until = match talk.turn(waiting, client.heard(), Instant::now()) {
                Turn::Wait(until) => until,
                turn => match speak(&mut channel, &mut talk, turn).await {
                    Ok(()) => continue,
                    Err(why) => {
                        self.session.forget_if(&client);
                        return Ended::Lost(why);
                    }
                },
            };
            tokio::select! {
                biased;
                line = channel.next_line() => {
                    let heard = line.map_err(|err| err.to_string()).and_then(|line| {
                        talk.hear(&line, Instant::now()).map_err(|err| err.to_string())
                    });
                    match heard {
                        Ok(message) => self.take(message, memory),
                        Err(why) => return Ended::Lost(why),
                    }
                }
                _ = changes.changed() => {
                    return Ended::Lost("the agent has discarded the connection".to_owned());
                }
                _ = reports.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn take(&self, message: ToAgent, memory: &mut Memory) {
        let ToAgent { last_seq, offer, ack, refused, reconnect_within_ms } = message;
        if let Some(last) = last_seq {
            self.greet(last, refused.is_some(), memory);
            memory.spread = reconnect_within_ms.map(Duration::from_millis);
        }
        if let Some(seq) = ack {
            self.reports.acknowledge(seq);
        }
        if last_seq.is_some() || ack.is_some() {
            self.refuse(refused, memory);
        }
        if let Some(offer) = offer
            && self.offers.take(offer)
        {
            self.superseded.send_replace(());
        }
    }

    fn greet(&self, last: u64, is_refused: bool, memory: &mut Memory) {
        memory.failures = 0;
        self.reports.greet(last, is_refused);
        tracing::info!(
            event = "watching",
            "the watch is open: the registry now sends each change without waiting for a poll"
        );
    }

    fn refuse(&self, refused: Option<String>, memory: &mut Memory) {
        if refused == memory.refused {
            return;
        }
        if let Some(why) = &refused {
            tracing::warn!(
                event = "report_refused",
                "the registry keeps no reports of this agent: {why}; the agent still deploys"
            );
        }
        let (status, kept) = (self.status.clone(), refused.clone());
        tokio::task::spawn_blocking(move || status.update(|report| report.reports_refused = kept));
        memory.refused = refused;
    }
}

/// Sends the lines that `turn` requires. The error is the reason why the watch ends.
async fn speak(
    channel: &mut WatchChannel,
    talk: &mut Conversation,
    turn: Turn,
) -> Result<(), String> {
    let silent = || format!("the registry has been silent for {} seconds", SILENCE.as_secs());
    let lines: Vec<(Option<u64>, Vec<u8>)> = match turn {
        Turn::Wait(_) => Vec::new(),
        Turn::Dead => return Err(silent()),
        Turn::Beat => vec![(None, b"\n".to_vec())],
        Turn::Send(reports) => {
            let line = |report| to_line(&ToRegistry { report: Some(report) });
            reports.into_iter().map(|report| (Some(report.seq), line(report))).collect()
        }
    };
    for (seq, line) in lines {
        // The watch also ends if the connection accepts no data within `SILENCE`.
        let sent = timeout(SILENCE, channel.send(line)).await.map_err(|_| silent())?;
        sent.map_err(|err| err.to_string())?;
        talk.spoke(seq, Instant::now());
    }
    Ok(())
}

impl Memory {
    /// The time until the next attempt. `fraction` is a random number from 0 to 1.
    fn wait(&mut self, was_live: bool, fraction: f64) -> Duration {
        let spread = self.spread.take().filter(|_| was_live);
        let doubled = 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let within = spread.map_or_else(
            || FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT),
            |spread| spread.min(LONGEST_SPREAD),
        );
        within.mul_f64(fraction.clamp(0.0, 1.0))
    }
}

/// Sends the reports of an agent that ran one cycle, and waits until the registry acknowledges
/// them.
pub async fn deliver(watch: &mut Watch) -> Result<(), Error> {
    let client = watch.session.client().await?;
    let mut channel = client.watch(&watch.line).await?;
    let mut talk = Conversation::new(Instant::now());
    let lost = |why: String| Error::Registry(ClientError::Lost(why));
    let mut is_refused = false;
    loop {
        let line = channel.next_line().await?;
        let message = talk.hear(&line, Instant::now()).map_err(|err| lost(err.to_string()))?;
        if let Some(last) = message.last_seq {
            is_refused = message.refused.is_some();
            watch.reports.greet(last, is_refused);
            if let Some(offer) = &message.offer {
                watch.reports.confirm(offer.revision, offer.id);
            }
        }
        if let Some(why) = &message.refused {
            tracing::warn!(
                event = "report_refused",
                "the registry keeps no reports of this agent: {why}"
            );
        }
        if let Some(seq) = message.ack {
            watch.reports.acknowledge(seq);
        }
        let waiting = watch.reports.after(talk.sent());
        if is_refused || (waiting.is_empty() && watch.reports.after(0).is_empty()) {
            channel.close().await;
            return Ok(());
        }
        if !waiting.is_empty() {
            speak(&mut channel, &mut talk, Turn::Send(waiting)).await.map_err(lost)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_a_registry_may_spread_the_attempts() {
        let mut memory = Memory::default();
        let waits: Vec<u64> = (0..8).map(|_| memory.wait(false, 1.0).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(memory.wait(false, 0.5).as_secs(), 30);
        let spread = |ms| Memory { spread: Some(Duration::from_millis(ms)), ..Memory::default() };
        let mut large = spread(30_000);
        assert_eq!(large.wait(true, 0.5), Duration::from_secs(15));
        assert_eq!(
            large.wait(false, 1.0),
            Duration::from_secs(4),
            "the spread applies only to the first attempt"
        );
        assert_eq!(spread(u64::MAX).wait(true, 1.0), LONGEST_SPREAD);
        assert_eq!(spread(30_000).wait(false, 1.0), FIRST_WAIT);
    }
}
