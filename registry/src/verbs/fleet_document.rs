//! Defines the JSON documents of the verb `fleet`.

use std::collections::BTreeMap;

use deploy_store::Digest;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::rollouts::RolloutRow;

/// The fleet, in the form of its JSON document. Later versions may add fields, but never remove
/// fields.
#[derive(Debug, Clone, Serialize)]
pub struct FleetStatus {
    /// Each configuration and its counts.
    pub configurations: Vec<ConfigurationStatus>,
    /// The hosts that the query selects, sorted by name.
    pub hosts: Vec<HostStatus>,
    /// Whether the query selects more hosts than its limit allows in one answer.
    pub more: bool,
}

/// The active rollout of a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutBrief {
    /// The number of the rollout.
    pub number: u64,
    /// The status of the rollout as one word.
    pub status: &'static str,
    /// The number of the state that the rollout brings to the hosts.
    pub target: u64,
    /// The number of the open wave; 0 before the first wave.
    pub wave: u32,
    /// The number of all waves of the rollout.
    pub waves: u64,
}

impl RolloutBrief {
    /// The document of a rollout.
    pub fn of(row: &RolloutRow) -> Self {
        Self {
            number: row.number,
            status: row.rollout.status.word(),
            target: row.target,
            wave: row.rollout.wave,
            waves: row.rollout.policy.waves.selectors().len() as u64,
        }
    }
}

/// One configuration with the counts of its hosts. If a wave of the active rollout has taken a
/// host, the rollout's target counts as the current state for this host. A held host counts only in
/// `hosts`, `held` and `phases`.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigurationStatus {
    /// The name of the configuration.
    pub configuration: String,
    /// The number of the current state.
    pub state: u64,
    /// The id of the current state.
    pub hash: String,
    /// The active rollout, if there is one.
    pub rollout: Option<RolloutBrief>,
    /// The number of hosts of the configuration, including the held hosts.
    pub hosts: u64,
    /// The number of hosts that have confirmed the current state.
    pub done: u64,
    /// The number of hosts that have not confirmed the current state and are not held by an
    /// operator.
    pub behind: u64,
    /// The number of hosts on which the current state failed.
    pub failed: u64,
    /// The number of hosts that are not connected, and have neither confirmed the current state nor
    /// failed.
    pub absent: u64,
    /// The number of hosts that an operator holds.
    pub held: u64,
    /// The number of agents that poll and have never reported. No other field counts these agents.
    pub unknown: u64,
    /// The numbers of hosts, by the phase of their last report.
    pub phases: BTreeMap<&'static str, u64>,
    /// The counts of each group, by the name of the group. The empty name stands for the hosts
    /// without a group.
    pub groups: BTreeMap<String, GroupStatus>,
}

/// The counts of the hosts of one configuration in one group. The current state has the same
/// meaning as in [`ConfigurationStatus`]. A held host counts only in `hosts` and `held`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// The number of hosts of the configuration in the group, including the held hosts.
    pub hosts: u64,
    /// The number of hosts that have confirmed the current state.
    pub done: u64,
    /// The number of hosts that have not confirmed the current state and are not held by an
    /// operator.
    pub behind: u64,
    /// The number of hosts on which the current state failed.
    pub failed: u64,
    /// The number of hosts that are not connected, and have neither confirmed the current state nor
    /// failed.
    pub absent: u64,
    /// The number of hosts that an operator holds.
    pub held: u64,
}

/// One host and one of its configurations.
#[derive(Debug, Clone, Serialize)]
pub struct HostStatus {
    /// The name of the host, or the address of an agent that only polls.
    pub host: String,
    /// The configuration.
    pub configuration: String,
    /// The group of the host; empty if the host has no group.
    pub group: String,
    /// The phase of the host's last report.
    pub phase: &'static str,
    /// The number of the state that the host runs, if the registry knows the number.
    pub runs: Option<u64>,
    /// The id of the state that the host runs.
    pub runs_hash: Option<Digest>,
    /// The number of the state that the host deploys or has deployed, if the registry knows the
    /// number.
    pub wants: Option<u64>,
    /// The id of the state that the host deploys or has deployed.
    pub wants_hash: Option<Digest>,
    /// Whether the host has confirmed the current state, as in [`ConfigurationStatus`].
    pub done: bool,
    /// When the phase began; `None` for an agent that only polls and has no row in the catalogue.
    pub since: Option<Timestamp>,
    /// Whether the host is connected.
    pub connected: bool,
    /// When the registry last saw the host.
    pub last_seen: Timestamp,
    /// Whether several agents report under this name.
    pub duplicate: bool,
    /// Why an operator holds the host; `None` if no operator holds the host.
    pub held: Option<String>,
    /// The number of the wave that has taken the host; `None` if no wave of an active rollout has
    /// taken the host.
    pub wave: Option<u32>,
    /// The reason why the deploy failed, as one word.
    pub reason: Option<&'static str>,
    /// A readable description of the last deploy's result.
    pub message: String,
    /// The version of the host's agent.
    pub version: String,
}
