//! Computes the deadlines of the hosts to which the rollout has offered the target. For a host
//! without a result, only the time in its open maintenance windows counts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::duration_words::after;
use crate::rollout_host::{Host, Member};
use crate::rollout_state::Rollout;
use crate::soak;
use crate::windows::{Windows, open_for};

/// Computes the deadlines of one rollout.
pub(crate) struct Deadlines<'a> {
    pub rollout: &'a Rollout,
    /// The deadlines that were already computed from windows. One computation takes some
    /// microseconds, and its result holds for all hosts with the same windows and the same start.
    known: RefCell<HashMap<(*const Windows, Timestamp, Duration), Timestamp>>,
}

impl<'a> Deadlines<'a> {
    pub fn new(rollout: &'a Rollout) -> Self {
        Self { rollout, known: RefCell::default() }
    }

    /// The time at which the host fails if it has no result by then.
    pub fn no_result_at(&self, host: &Host, member: &Member) -> Timestamp {
        let timeout = self.rollout.policy.wave_timeout;
        self.heard(host, self.deployed_for(host, member, self.start(member), timeout))
    }

    /// The time at which the host counts as lost if it stays away. `None` if the host is not away.
    pub fn lost_at(&self, host: &Host, member: &Member) -> Option<Timestamp> {
        let away = host.away_since?.max(self.start(member));
        Some(self.deployed_for(host, member, away, self.rollout.policy.lost_after))
    }

    /// The time at which a good host of the open wave fails if it has not been healthy for one
    /// whole soak. `None` before the soak.
    pub fn unsteady_at(&self, host: &Host) -> Option<Timestamp> {
        soak::latest_end(self.rollout).map(|deadline| self.heard(host, deadline))
    }

    /// The start of the host's deadlines, which is the time of the offer or of a later resume.
    fn start(&self, member: &Member) -> Timestamp {
        member.offered.max(self.rollout.status_since)
    }

    /// The moment at which the duration `time` has passed since `start`. For a host without a
    /// result, only the time in open windows counts.
    fn deployed_for(
        &self,
        host: &Host,
        member: &Member,
        start: Timestamp,
        time: Duration,
    ) -> Timestamp {
        match &host.windows {
            Some(windows) if member.result.is_none() => {
                let key = (Arc::as_ptr(windows), start, time);
                let mut known = self.known.borrow_mut();
                *known.entry(key).or_insert_with(|| open_for(windows, start, time))
            }
            _ => after(start, time),
        }
    }

    /// The deadline of a host. If the host has just disconnected, the deadline is extended, so that
    /// the host can connect again. Without the extension, a deadline could pass while the registry
    /// is down and a host cannot report its result.
    fn heard(&self, host: &Host, deadline: Timestamp) -> Timestamp {
        match host.away_since {
            Some(since) => deadline.max(after(since, self.rollout.policy.reconnect)),
            None => deadline,
        }
    }
}
