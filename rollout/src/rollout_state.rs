//! A rollout and its status.

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
    /// Since when the rollout has this status. A resume restarts the deadlines of the open wave.
    pub status_since: Timestamp,
    /// The number of the open wave; 0 before the first wave opens.
    pub wave: u32,
    /// When the open wave opened.
    pub opened: Option<Timestamp>,
    /// When the soak of the open wave began.
    pub soaking_since: Option<Timestamp>,
    /// Whether an operator ended the soak of the open wave.
    pub soak_skipped: bool,
    /// Since when the next wave waits for hosts that have just disconnected.
    pub waiting_since: Option<Timestamp>,
    /// The number of hosts that may fail. The rollout computes this number when a wave opens. It is
    /// never lower than the number of hosts that have failed by then.
    pub budget: u64,
}

/// The status of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Waves open and soak.
    Running,
    /// An operator or a duplicate host has paused the rollout. The rollout takes no more hosts.
    Paused {
        /// Why the rollout is paused.
        why: String,
    },
    /// The rollout has stopped by itself, and takes no more hosts.
    Halted {
        /// Why the rollout has halted.
        why: String,
    },
    /// An operator has aborted the rollout. All hosts get the base again.
    Aborted,
    /// Another change of the configuration has replaced the rollout.
    Superseded,
    /// All waves have succeeded. The target becomes the current state.
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
    /// The status as one word.
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

    /// Why the rollout is paused or has halted.
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

/// Whether the rollout offers the target to a host with this part in the rollout.
///
/// The rollout offers the target to a host of a wave until the rollout ends, even if the host has
/// failed or the rollout has halted. The health gate of a failed host already holds the target
/// back, and another state would make the host deploy once more. After the end, the host is offered
/// the current state of the configuration. After a success, this state is the target.
///
/// A hold of the host has precedence over the rollout, so the caller checks for a hold first.
pub fn shows_target(rollout: &Rollout, member: Option<&Member>) -> bool {
    !rollout.status.is_final() && member.is_some()
}
