//! The deadlines of the hosts to which the rollout has offered the target. The deadlines of a host
//! without a result stand still while its maintenance windows are closed.

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
    /// The deadlines that were computed from windows so far. All hosts of a wave and a group have
    /// the same deadline, and computing it takes some microseconds.
    known: RefCell<HashMap<(*const Windows, Timestamp, Duration), Timestamp>>,
}

impl<'a> Deadlines<'a> {
    pub fn new(rollout: &'a Rollout) -> Self {
        Self { rollout, known: RefCell::default() }
    }

    /// The time at which a host without a result has failed.
    pub fn no_result_at(&self, host: &Host, member: &Member) -> Timestamp {
        let timeout = self.rollout.policy.wave_timeout;
        self.heard(host, self.deployed_for(host, member, self.start(member), timeout))
    }

    /// The time at which the host counts as lost. None if the host is not away.
    pub fn lost_at(&self, host: &Host, member: &Member) -> Option<Timestamp> {
        let away = host.away_since?.max(self.start(member));
        Some(self.deployed_for(host, member, away, self.rollout.policy.lost_after))
    }

    /// The time at which a good host of the open wave has failed unless it has been healthy for one
    /// whole soak. None before the soak.
    pub fn unsteady_at(&self, host: &Host) -> Option<Timestamp> {
        soak::latest_end(self.rollout).map(|deadline| self.heard(host, deadline))
    }

    /// The time from which the host's deadlines run: the offer, or a later resume.
    fn start(&self, member: &Member) -> Timestamp {
        member.offered.max(self.rollout.status_since)
    }

    /// The time at which the host has had the duration `time` to deploy the target. For a host
    /// without a result, only the time in open windows counts.
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

    /// The deadline of a host, extended if the host has just disconnected: such a host gets time to
    /// connect again. While the registry is down, deadlines may pass although the hosts have
    /// results that they cannot report.
    fn heard(&self, host: &Host, deadline: Timestamp) -> Timestamp {
        match host.away_since {
            Some(since) => deadline.max(after(since, self.rollout.policy.reconnect)),
            None => deadline,
        }
    }
}
