//! Decides what the agent sends on a watch, and when it sends. This module does not access the
//! network or the clock.

use std::time::Duration;

use deploy_wire::fleet::lines::from_line;
use deploy_wire::fleet::{HEARTBEAT, Report, SILENCE, ToAgent, Unreadable};
use tokio::time::Instant;

/// Time for which the agent holds back the report of a step, because the next step may follow soon.
/// For a short deploy, the agent therefore sends only the report of the result.
const LINGER: Duration = Duration::from_millis(100);

/// The state of a watch: when lines were received and sent, and which reports were sent.
#[derive(Debug)]
pub struct Conversation {
    heard: Instant,
    spoke: Instant,
    is_greeted: bool,
    /// Number of the last report that was sent.
    sent: u64,
    /// Time at which the agent began to hold back reports; `None` if it holds back none.
    lingers: Option<Instant>,
}

/// What the agent must do on the watch now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Wait until a line arrives, a report is made, or this time is reached.
    Wait(Instant),
    /// Send these reports.
    Send(Vec<Report>),
    /// Send a heartbeat.
    Beat,
    /// End the watch, because the registry is silent.
    Dead,
}

impl Conversation {
    /// The state of a watch that begins now.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, spoke: now, is_greeted: false, sent: 0, lingers: None }
    }

    /// Handles a line from the registry.
    pub fn hear(&mut self, line: &[u8], now: Instant) -> Result<ToAgent, Unreadable> {
        let message: ToAgent = from_line(line)?;
        self.heard = now;
        self.is_greeted |= message.last_seq.is_some();
        if message == ToAgent::default() {
            // The next turn answers the heartbeat with a heartbeat, so that both sides send equally
            // often.
            self.spoke = now.checked_sub(HEARTBEAT).unwrap_or(now);
        }
        Ok(message)
    }

    /// Whether the registry has sent its first line.
    pub fn is_greeted(&self) -> bool {
        self.is_greeted
    }

    /// Number of the last report that was sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Records that the agent has sent a line. If the line was a report, `report` is its number.
    pub fn spoke(&mut self, report: Option<u64>, now: Instant) {
        self.spoke = now;
        if let Some(seq) = report {
            (self.sent, self.lingers) = (seq, None);
        }
    }

    /// Decides what the agent must do now. `waiting` contains the reports after the last sent
    /// report. `alive` is the time of the last sftp answer on the same connection.
    pub fn turn(&mut self, waiting: Vec<Report>, alive: Option<Instant>, now: Instant) -> Turn {
        let silent_at = alive.map_or(self.heard, |alive| alive.max(self.heard)) + SILENCE;
        if now >= silent_at {
            return Turn::Dead;
        }
        let beat_at = self.spoke + HEARTBEAT;
        let mut next = silent_at.min(beat_at);
        if self.is_greeted && !waiting.is_empty() {
            let send_at = *self.lingers.get_or_insert(now) + LINGER;
            if now >= send_at || waiting.iter().any(|report| report.phase.is_final()) {
                return Turn::Send(waiting);
            }
            next = next.min(send_at);
        }
        if now >= beat_at { Turn::Beat } else { Turn::Wait(next) }
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::Phase;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin() -> (Conversation, Instant) {
        let now = Instant::now();
        (Conversation::new(now), now)
    }

    fn greeted() -> (Conversation, Instant) {
        let (mut talk, now) = begin();
        let line = talk.hear(b"{\"last_seq\": 4, \"dance\": true}", now).unwrap();
        assert_eq!(line.last_seq, Some(4));
        (talk, now)
    }

    fn report(seq: u64, phase: Phase) -> Report {
        Report { seq, phase, ..Report::default() }
    }

    #[test]
    fn silence_ends_a_watch_and_received_data_prolongs_it() {
        let (mut talk, mut now) = greeted();
        for _ in 0..5 {
            now += HEARTBEAT;
            assert_eq!(talk.turn(Vec::new(), None, now), Turn::Beat);
            talk.spoke(None, now);
            talk.hear(b"", now).unwrap();
            assert_eq!(talk.turn(Vec::new(), None, now), Turn::Beat, "a heartbeat is answered");
            talk.spoke(None, now);
            assert_eq!(talk.turn(Vec::new(), None, now), Turn::Wait(now + HEARTBEAT));
        }
        let last = now;
        talk.spoke(None, last + SILENCE - SECOND);
        assert_eq!(
            talk.turn(Vec::new(), None, last + SILENCE - SECOND),
            Turn::Wait(last + SILENCE)
        );
        assert_eq!(talk.turn(Vec::new(), None, last + SILENCE), Turn::Dead);
        // A slow download on the same connection delays the registry's line.
        let alive = Some(last + SILENCE - SECOND);
        assert_eq!(
            talk.turn(Vec::new(), alive, last + SILENCE),
            Turn::Wait(last + SILENCE + HEARTBEAT - SECOND)
        );
    }

    #[test]
    fn registry_without_a_first_line_gets_no_reports_and_the_watch_ends() {
        let (mut talk, now) = begin();
        let waiting = vec![report(1, Phase::Healthy)];
        assert_eq!(talk.turn(waiting.clone(), None, now), Turn::Wait(now + HEARTBEAT));
        assert_eq!(talk.turn(waiting, None, now + SILENCE), Turn::Dead);
        assert!(!talk.is_greeted() && talk.hear(b"{", now).is_err());
    }

    #[test]
    fn result_is_sent_immediately_and_steps_are_held_back() {
        let (mut talk, now) = greeted();
        let offered = vec![report(5, Phase::Offered)];
        assert_eq!(talk.turn(offered.clone(), None, now), Turn::Wait(now + LINGER));
        assert_eq!(talk.turn(offered.clone(), None, now + LINGER), Turn::Send(offered.clone()));
        talk.spoke(Some(5), now);
        assert_eq!(talk.sent(), 5);
        assert_eq!(talk.turn(Vec::new(), None, now), Turn::Wait(now + HEARTBEAT));
        let script = vec![report(6, Phase::Script)];
        assert_eq!(talk.turn(script, None, now), Turn::Wait(now + LINGER));
        let done = vec![report(7, Phase::Healthy)];
        assert_eq!(talk.turn(done.clone(), None, now), Turn::Send(done));
        // The agent sends a result immediately, together with the report of the next step.
        talk.spoke(Some(7), now);
        let both = vec![report(8, Phase::Failed), report(9, Phase::Offered)];
        assert_eq!(talk.turn(both.clone(), None, now), Turn::Send(both));
    }
}
