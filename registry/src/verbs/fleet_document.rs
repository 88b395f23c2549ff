//! The documents of the verb `fleet`.

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
    /// Whether the limit cut off further hosts.
    pub more: bool,
}

/// The active rollout of a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutBrief {
    /// The number of the rollout.
    pub number: u64,
    /// The status as one word.
    pub status: &'static str,
    /// The state that the rollout brings to the hosts.
    pub target: u64,
    /// The number of the open wave.
    pub wave: u32,
    /// How many waves there are.
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

/// One configuration with the counts of its hosts.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigurationStatus {
    /// The name of the configuration.
    pub configuration: String,
    /// Number of the current state.
    pub state: u64,
    /// Id of the current state.
    pub hash: String,
    /// The active rollout, if there is one.
    pub rollout: Option<RolloutBrief>,
    /// Hosts of the configuration.
    pub hosts: u64,
    /// Hosts that have confirmed the current state.
    pub done: u64,
    /// Hosts that have not confirmed the current state and are not held by an operator.
    pub behind: u64,
    /// Hosts on which the current state failed.
    pub failed: u64,
    /// Hosts that are not connected and have not confirmed the current state.
    pub absent: u64,
    /// Hosts that an operator holds.
    pub held: u64,
    /// Agents that poll and have never reported. No other field counts them.
    pub unknown: u64,
    /// Hosts by the phase of their last report.
    pub phases: BTreeMap<&'static str, u64>,
    /// The counts of each group. The hosts without a group have an empty name.
    pub groups: BTreeMap<String, GroupStatus>,
}

/// The counts of the hosts of one configuration in one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Hosts of the configuration in the group.
    pub hosts: u64,
    /// Hosts that have confirmed the current state.
    pub done: u64,
    /// Hosts that have not confirmed the current state and are not held by an operator.
    pub behind: u64,
    /// Hosts on which the current state failed.
    pub failed: u64,
    /// Hosts that are not connected and have not confirmed the current state.
    pub absent: u64,
    /// Hosts that an operator holds.
    pub held: u64,
}

/// One host and one of its configurations.
#[derive(Debug, Clone, Serialize)]
pub struct HostStatus {
    /// The name of the host, or the address of an agent that only polls.
    pub host: String,
    /// The configuration.
    pub configuration: String,
    /// The group that operators gave the host.
    pub group: String,
    /// The phase of the host's last report.
    pub phase: &'static str,
    /// Number of the state that the host runs, if the registry knows the number.
    pub runs: Option<u64>,
    /// Id of the configuration that the host runs.
    pub runs_hash: Option<Digest>,
    /// Number of the state that the host deploys or has deployed, if the registry knows the number.
    pub wants: Option<u64>,
    /// Id of the configuration that the host deploys or has deployed.
    pub wants_hash: Option<Digest>,
    /// Whether the host has confirmed the current state.
    pub done: bool,
    /// When the phase began.
    pub since: Option<Timestamp>,
    /// Whether the host is connected.
    pub connected: bool,
    /// When the registry last saw the host.
    pub last_seen: Timestamp,
    /// Whether several agents report under this name.
    pub duplicate: bool,
    /// Why an operator holds the host; `None` if no operator holds it.
    pub held: Option<String>,
    /// The wave of the active rollout that has taken the host.
    pub wave: Option<u32>,
    /// The reason for the failure of the deploy, as one word.
    pub reason: Option<&'static str>,
    /// What happened, as a text for people.
    pub message: String,
    /// The version of the host's agent.
    pub version: String,
}
