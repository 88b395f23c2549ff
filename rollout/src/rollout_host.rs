//! Describes a host as the registry sees it at one moment, with its part in the rollout.

use std::sync::Arc;

use deploy_wire::fleet::HostName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::policy::Policy;
use crate::windows::Windows;

/// A host as the registry sees it at this moment. The lists of hosts in this crate do not contain
/// retired hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The number of the host in the catalogue.
    pub id: i64,
    /// The name.
    pub name: HostName,
    /// The group. Empty if the host has no group.
    pub group: String,
    /// The state of the host according to its reports about the target.
    pub standing: Standing,
    /// The moment since which the host has been away. Usually, it disconnected at this moment. If
    /// the host has not connected since the registry started, this is the moment of the start. If
    /// the agent only polls, this is the moment at which its next poll was due. The field is `None`
    /// if the host is connected and the registry has read the host's first report on this
    /// connection. It is also `None` if the agent has polled recently.
    pub away_since: Option<Timestamp>,
    /// Whether two agents use the host's name.
    pub duplicate: bool,
    /// Whether an operator holds the host.
    pub held: bool,
    /// Whether the host has never reported. Usually, such a host has the agent of the Go tool,
    /// which only polls. After its first report (with the command `report`), the host is not
    /// unknown any more.
    pub unknown: bool,
    /// The maintenance windows of the host's group; `None` if the host may always deploy. While the
    /// windows are closed, the host does not deploy the target, and its deadlines stand still. The
    /// hosts of a group should share one `Arc`, because deadlines are computed once for each `Arc`.
    pub windows: Option<Arc<Windows>>,
    /// The host's part in the rollout, if a wave has taken it.
    pub member: Option<Member>,
}

/// The state of a host according to its reports about the target. A report from before
/// [`Member::offered`] does not count, because it may belong to an earlier try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The host has reported nothing about the target, and was healthy before.
    Base,
    /// The host has reported nothing about the target, and was unhealthy before.
    BaseUnhealthy,
    /// The host is deploying the target. An unknown host has this state once it has fetched the
    /// target.
    Working,
    /// The host runs the target and is healthy.
    Healthy,
    /// The deploy of the target failed, for the reason in this text.
    Failed(String),
}

/// The part of a host in the rollout, as the catalogue stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The number of the wave that took the host.
    pub wave: u32,
    /// The time at which the rollout offered the target to the host. A retry sets this time again.
    /// The end of a hold does, too, if the host has no result.
    pub offered: Timestamp,
    /// The time since which the host has been healthy on the target without an interruption.
    pub healthy_since: Option<Timestamp>,
    /// The result.
    pub result: Option<Outcome>,
    /// Whether the host was unhealthy before the offer. If so, a failure of the host does not spend
    /// the budget.
    pub repaired: bool,
    /// Whether an operator set the result. If so, reports of the host do not change the result.
    pub marked: bool,
    /// Whether the host currently does not count, because an operator holds it.
    pub left: bool,
}

/// The result of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The host runs the target and is healthy.
    Good,
    /// The host has failed.
    Failed(Failure),
}

impl Member {
    /// The initial state of a host to which the rollout now offers the target.
    pub fn new(wave: u32, offered: Timestamp, repaired: bool) -> Self {
        let (healthy_since, result, marked, left) = (None, None, false, false);
        Self { wave, offered, healthy_since, result, repaired, marked, left }
    }
}

impl Host {
    /// The host's part in the rollout. `None` if an operator holds the host, because a held host
    /// does not count.
    pub fn counted_member(&self) -> Option<&Member> {
        self.member.as_ref().filter(|_| !self.held)
    }

    /// Whether the host is healthy on the target. If the policy allows unknown hosts, an unknown
    /// host counts as healthy once it has fetched the target, because it may never report.
    pub(crate) fn is_healthy(&self, policy: &Policy) -> bool {
        match self.standing {
            Standing::Healthy => true,
            Standing::Working => self.unknown && policy.allow_unknown,
            _ => false,
        }
    }

    /// Whether the host is a member that counts and has failed.
    pub(crate) fn has_failed(&self) -> bool {
        let result = self.counted_member().and_then(|member| member.result.as_ref());
        matches!(result, Some(Outcome::Failed(_)))
    }

    /// Whether the host is a member that counts and is good.
    pub(crate) fn is_good(&self) -> bool {
        let result = self.counted_member().and_then(|member| member.result.as_ref());
        matches!(result, Some(Outcome::Good))
    }

    /// Whether the host has failed, and its failure spends a part of the budget.
    pub(crate) fn spends_budget(&self) -> bool {
        self.has_failed() && self.member.as_ref().is_some_and(|member| !member.repaired)
    }
}

/// The number of failed hosts that spend the budget. Hosts that were unhealthy before the offer,
/// and hosts that an operator holds, do not spend it.
pub fn failed(hosts: &[Host]) -> u64 {
    count(hosts, Host::spends_budget)
}

/// The number of hosts for which `is_counted` returns true.
pub(crate) fn count(hosts: &[Host], is_counted: impl Fn(&Host) -> bool) -> u64 {
    hosts.iter().map(|host| u64::from(is_counted(host))).sum()
}
