//! Describes a rollout and its status.

use jiff::Timestamp;

use crate::policy::Policy;
use crate::rollout_host::Member;

/// A rollout, as the catalogue stores it. Only [`apply`](crate::apply) changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The policy.
    pub policy: Policy,
    /// The status.
    pub status: Status,
    /// The time since which the rollout has this status. The deadlines of the open wave do not
    /// start before this time, so a resume restarts them.
    pub status_since: Timestamp,
    /// The number of the open wave; 0 before the first wave opens.
    pub wave: u32,
    /// The time at which the open wave opened. `None` before the first wave opens.
    pub opened: Option<Timestamp>,
    /// The time at which the soak of the open wave began. `None` before the soak.
    pub soaking_since: Option<Timestamp>,
    /// Whether an operator ended the soak of the open wave.
    pub soak_skipped: bool,
    /// The time since which the next wave has been waiting for hosts that have just disconnected.
    /// `None` if the next wave does not wait for hosts.
    pub waiting_since: Option<Timestamp>,
    /// The number of hosts that may fail. The rollout computes this number when a wave opens, and
    /// when an operator resumes the rollout. At that time, the number of failed hosts is at most
    /// this number.
    pub budget: u64,
}

/// The status of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Waves open and soak.
    Running,
    /// An operator or a duplicate host has paused the rollout. The rollout takes no more hosts.
    Paused {
        /// The reason for the pause.
        why: String,
    },
    /// The rollout has stopped by itself, and takes no more hosts.
    Halted {
        /// The reason for the halt.
        why: String,
    },
    /// An operator has aborted the rollout. All hosts get the base again.
    Aborted,
    /// Another change of the configuration has replaced the rollout.
    Superseded,
    /// All waves have ended, and the rollout did not halt. The target becomes the current state.
    Succeeded,
}

impl Rollout {
    /// A rollout that starts now.
    pub fn new(policy: Policy, now: Timestamp) -> Self {
        Self {
            policy,
            status: Status::Running,
            status_since: now,
            wave: 0,
            opened: None,
            soaking_since: None,
            soak_skipped: false,
            waiting_since: None,
            budget: 0,
        }
    }
}

impl Status {
    /// The status as one word, as in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Halted { .. } => "halted",
            Self::Aborted => "aborted",
            Self::Superseded => "superseded",
            Self::Succeeded => "succeeded",
        }
    }

    /// The reason why the rollout is paused or has halted. `None` for every other status.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Paused { why } | Self::Halted { why } => Some(why),
            _ => None,
        }
    }

    /// Whether the rollout has ended, so that its status never changes again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Aborted | Self::Superseded | Self::Succeeded)
    }
}

/// Whether the rollout offers the target to a host. `member` is the host's part in the rollout.
///
/// The rollout offers the target to a host of a wave until the rollout ends, even if the host has
/// failed or the rollout has halted. A failed host does not try the same target again on its own,
/// but the offer of another state would make the host deploy once more. After the end, the registry
/// offers the current state of the configuration to the host. After a success, this state is the
/// target.
///
/// A hold of the host has precedence over the rollout, so the caller checks for a hold first.
pub fn shows_target(rollout: &Rollout, member: Option<&Member>) -> bool {
    !rollout.status.is_final() && member.is_some()
}
