//! Defines the changes of a rollout, and applies them.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::failure::Failure;
use crate::limit::Limit;
use crate::rollout_host::{Host, Member, Outcome};
use crate::rollout_state::{Rollout, Status};

/// One change. The registry writes the changes of a step or of a command in one transaction. The
/// state after each change is valid, even if the later changes are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The next wave begins to wait for hosts that have just disconnected.
    AwaitHosts,
    /// A wave opens. A wave that takes no hosts is skipped.
    OpenWave {
        /// The number of the wave.
        wave: u32,
        /// The hosts that the wave takes, in order of precedence.
        hosts: Vec<Taken>,
        /// The new limit on the number of failed hosts of all waves together.
        budget: u64,
    },
    /// A good host is healthy again.
    Healthy {
        /// The host.
        host: i64,
    },
    /// A good host is not healthy any more. The host may become healthy again during the soak.
    NotHealthy {
        /// The host.
        host: i64,
    },
    /// A host has become healthy on the target.
    Good {
        /// The host.
        host: i64,
    },
    /// A host has failed.
    Fail {
        /// The host.
        host: i64,
        /// The reason.
        failure: Failure,
    },
    /// An operator holds a host of a wave, so the host does not count any more.
    Leave {
        /// The host.
        host: i64,
    },
    /// The hold of a host of a wave ends, so the host counts again. If the host has no result, its
    /// deadlines start again.
    Return {
        /// The host.
        host: i64,
    },
    /// All hosts of the open wave have a result, so the soak begins.
    BeginSoak,
    /// The rollout halts.
    Halt {
        /// The reason.
        why: String,
    },
    /// The rollout pauses.
    Pause {
        /// The reason.
        why: String,
    },
    /// The rollout has succeeded: the target becomes the current state.
    Succeed,
    /// An operator resumes the rollout. The deadlines and the soak of the open wave start again.
    Resume {
        /// The policy's new limit on failed hosts, if the operator gave one.
        max_failed: Option<Limit>,
        /// The policy's new limit on absent hosts, if the operator gave one.
        max_absent: Option<Limit>,
        /// The new limit on the number of failed hosts of all waves together.
        budget: u64,
    },
    /// An operator ends the soak of the open wave.
    SkipSoak,
    /// An operator sets the result of a host.
    Mark {
        /// The host.
        host: i64,
        /// True if the host counts as good, false if it counts as failed.
        good: bool,
    },
    /// An operator gives a failed host another try. The host's deadlines start again.
    Retry {
        /// The host.
        host: i64,
    },
    /// An operator aborts the rollout.
    Abort,
    /// Another change of the configuration replaces the rollout.
    Supersede,
}

/// A host that a wave takes, and its health before the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The host.
    pub host: i64,
    /// Whether the host was unhealthy before the offer.
    pub repair: bool,
}

/// Applies one change to the rollout and its hosts. If a change is about a host that does not exist
/// any more, the change has no effect.
pub fn apply(rollout: &mut Rollout, hosts: &mut [Host], change: &Change, now: Timestamp) {
    apply_all(rollout, hosts, std::slice::from_ref(change), now);
}

/// Applies several changes in their order.
pub fn apply_all(rollout: &mut Rollout, hosts: &mut [Host], changes: &[Change], now: Timestamp) {
    let places: HashMap<i64, usize> =
        hosts.iter().enumerate().map(|(place, host)| (host.id, place)).collect();
    for change in changes {
        if let Some(status) = new_status(change) {
            rollout.status = status;
            rollout.status_since = now;
        }
        change_rollout(rollout, change, now);
        match change {
            Change::OpenWave { wave, hosts: taken, .. } => {
                for taken in taken {
                    if let Some(place) = places.get(&taken.host) {
                        hosts[*place].member = Some(Member::new(*wave, now, taken.repair));
                    }
                }
            }
            _ => {
                let place = host_of(change).and_then(|id| places.get(&id));
                if let Some(member) = place.and_then(|place| hosts[*place].member.as_mut()) {
                    change_member(member, change, now);
                }
            }
        }
    }
}

fn new_status(change: &Change) -> Option<Status> {
    match change {
        Change::Halt { why } => Some(Status::Halted { why: why.clone() }),
        Change::Pause { why } => Some(Status::Paused { why: why.clone() }),
        Change::Succeed => Some(Status::Succeeded),
        Change::Resume { .. } => Some(Status::Running),
        Change::Abort => Some(Status::Aborted),
        Change::Supersede => Some(Status::Superseded),
        _ => None,
    }
}

fn change_rollout(rollout: &mut Rollout, change: &Change, now: Timestamp) {
    match change {
        Change::OpenWave { wave, budget, .. } => {
            rollout.wave = *wave;
            rollout.budget = *budget;
            rollout.opened = Some(now);
            rollout.soaking_since = None;
            rollout.soak_skipped = false;
            rollout.waiting_since = None;
        }
        Change::AwaitHosts => rollout.waiting_since = Some(now),
        Change::BeginSoak => rollout.soaking_since = Some(now),
        Change::SkipSoak => rollout.soak_skipped = true,
        Change::Resume { max_failed, max_absent, budget } => {
            rollout.policy.max_failed = max_failed.unwrap_or(rollout.policy.max_failed);
            rollout.policy.max_absent = max_absent.unwrap_or(rollout.policy.max_absent);
            rollout.budget = *budget;
            rollout.waiting_since = None;
        }
        // After this change, a host of the wave may have no result, so the soak must begin again.
        Change::Retry { .. } | Change::Return { .. } => {
            rollout.soaking_since = None;
            rollout.soak_skipped = false;
            rollout.waiting_since = None;
        }
        _ => {}
    }
}

/// The host that the change is about. `None` if the change is not about a single host.
pub(crate) fn host_of(change: &Change) -> Option<i64> {
    match change {
        Change::Healthy { host }
        | Change::NotHealthy { host }
        | Change::Good { host }
        | Change::Fail { host, .. }
        | Change::Leave { host }
        | Change::Return { host }
        | Change::Mark { host, .. }
        | Change::Retry { host } => Some(*host),
        _ => None,
    }
}

fn change_member(member: &mut Member, change: &Change, now: Timestamp) {
    match change {
        Change::Healthy { .. } => member.healthy_since = Some(now),
        Change::NotHealthy { .. } => member.healthy_since = None,
        Change::Good { .. } => {
            member.result = Some(Outcome::Good);
            member.healthy_since = Some(now);
        }
        Change::Fail { failure, .. } => {
            member.result = Some(Outcome::Failed(failure.clone()));
            member.healthy_since = None;
        }
        Change::Leave { .. } => member.left = true,
        Change::Return { .. } => {
            member.left = false;
            if member.result.is_none() {
                member.offered = now;
            }
        }
        Change::Mark { good, .. } => {
            let failed = Outcome::Failed(Failure::Marked);
            member.result = Some(if *good { Outcome::Good } else { failed });
            member.marked = true;
        }
        Change::Retry { .. } => {
            member.result = None;
            member.marked = false;
            member.healthy_since = None;
            member.offered = now;
        }
        _ => {}
    }
}
