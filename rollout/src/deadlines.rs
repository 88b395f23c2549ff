//! The deadlines of hosts that the rollout has offered the target. The deadlines of a host without a
//! result stand still while its maintenance windows are closed.

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
    /// What was computed from windows. All hosts of a wave and a group have the same deadline, and
    /// it takes some microseconds to compute.
    known: RefCell<HashMap<(*const Windows, Timestamp, Duration), Timestamp>>,
}

impl<'a> Deadlines<'a> {
    pub fn new(rollout: &'a Rollout) -> Self {
        Self { rollout, known: RefCell::default() }
    }

    /// When the host has failed because it has no result.
    pub fn no_result_at(&self, host: &Host, member: &Member) -> Timestamp {
        let timeout = self.rollout.policy.wave_timeout;
        self.heard(host, self.deployed_for(host, member, self.start(member), timeout))
    }

    /// When the host is lost, if it is away.
    pub fn lost_at(&self, host: &Host, member: &Member) -> Option<Timestamp> {
        let away = host.away_since?.max(self.start(member));
        Some(self.deployed_for(host, member, away, self.rollout.policy.lost_after))
    }

    /// When a good host of the open wave has failed because it is not ready. None before the soak.
    pub fn unsteady_at(&self, host: &Host) -> Option<Timestamp> {
        soak::latest_end(self.rollout).map(|deadline| self.heard(host, deadline))
    }

    /// When the host's deadlines began: at the offer, or at a resume after the offer.
    fn start(&self, member: &Member) -> Timestamp {
        member.offered.max(self.rollout.status_since)
    }

    /// When the host has had so much time to deploy the target. A host with a result needs no
    /// window.
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

    /// The deadline of a host from which the registry has to hear. After a time without the
    /// registry, all deadlines may be over, while the results of the hosts are still on their way.
    /// So a host that has just disconnected has time to connect again.
    fn heard(&self, host: &Host, deadline: Timestamp) -> Timestamp {
        match host.away_since {
            Some(since) => deadline.max(after(since, self.rollout.policy.reconnect)),
            None => deadline,
        }
    }
}
