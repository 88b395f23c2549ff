//! Makes the gauges of the connections to hosts: silent hosts and duplicate hosts.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::catalog::fleet::{AgentRow, FleetSnapshot};
use crate::fleet::metrics::{Sample, float};
use crate::registry::Registry;
use crate::verbs::fleet_status::agent_id;

/// The connections to the hosts of a configuration.
#[derive(Debug, Clone, Copy, Default)]
struct Contacts {
    /// Seconds since the registry last saw the host that has been silent for the longest time; 0 if
    /// all hosts are connected. Held hosts, and hosts that never keep a connection, do not count.
    oldest: f64,
    /// The number of hosts under whose name several agents are connected.
    duplicate: u64,
}

impl Registry {
    /// The gauges of each configuration: the longest silence of a host, and the number of duplicate
    /// hosts.
    pub(super) fn contact_samples(&self, fleet: &FleetSnapshot, now: Timestamp) -> Vec<Sample> {
        let empty = fleet.currents.keys().map(|name| (name.as_str(), Contacts::default()));
        let mut all: BTreeMap<&str, Contacts> = empty.collect();
        for agent in &fleet.agents {
            let Some(host) = fleet.hosts.get(&agent.host) else { continue };
            let Some(contacts) = all.get_mut(agent.configuration.as_str()) else { continue };
            let id = agent_id(&host.name, &agent.configuration);
            let presence = &self.fleet.presence;
            if id.as_ref().is_some_and(|id| presence.is_duplicate(id)) {
                contacts.duplicate += 1;
            }
            if host.hold.is_none() && keeps_a_connection(agent) {
                let is_connected = id.as_ref().is_some_and(|id| presence.is_connected(id));
                let seen = id.as_ref().and_then(|id| presence.last_seen(id));
                let seen = seen.map_or(agent.reported, |seen| seen.max(agent.reported));
                let age = if is_connected { 0.0 } else { now.duration_since(seen).as_secs_f64() };
                contacts.oldest = contacts.oldest.max(age);
            }
        }
        let sample = |name, help, configuration: &str, value| {
            let labels = vec![("configuration", configuration.to_owned())];
            Sample { name, help, labels, value }
        };
        let oldest = "Seconds since the registry last saw the host that has been silent for the \
                      longest time.";
        let duplicate = "Hosts under whose name several agents are connected.";
        let ages = all
            .iter()
            .map(|(of, it)| sample("host_oldest_report_age_seconds", oldest, of, it.oldest));
        let duplicates = all
            .iter()
            .map(|(of, it)| sample("hosts_duplicate", duplicate, of, float(it.duplicate)));
        ages.chain(duplicates).collect()
    }
}

/// Whether the agent keeps a connection to the registry. Only such an agent reports a directory id.
/// Agents that only poll report none, and neither do scripts.
fn keeps_a_connection(agent: &AgentRow) -> bool {
    !agent.instance.is_empty()
}
