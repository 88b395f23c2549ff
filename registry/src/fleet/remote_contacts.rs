//! The agents that are or were connected to the other registries of a shared catalogue, as far as
//! these registries have told. The code is pure: it uses no disk, network or clock.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use deploy_store::ConfigurationName;
use jiff::Timestamp;

use super::agent_id::AgentId;
use crate::catalog::{ContactRow, Registries};

/// The contacts.
#[derive(Debug, Default)]
pub struct RemoteContacts {
    /// The contacts of each agent, one for each registry.
    contacts: HashMap<AgentId, Vec<Contacted>>,
    /// The last heartbeat of each registry, and whether the registry runs.
    registries: HashMap<String, (Timestamp, bool)>,
    connected: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Contacted {
    registry: String,
    instance: String,
    address: Option<IpAddr>,
    connected: bool,
    duplicate: bool,
    time: Timestamp,
}

impl RemoteContacts {
    /// Adds contacts, which replace earlier ones of the same registry and agent.
    pub fn add(&mut self, rows: Vec<ContactRow>) {
        for row in rows {
            let (Ok(host), Ok(name)) = (row.host.parse(), row.configuration.parse()) else {
                continue;
            };
            let new = Contacted {
                registry: row.registry,
                instance: row.instance,
                address: row.address.parse().ok(),
                connected: row.connected,
                duplicate: row.duplicate,
                time: Timestamp::from_nanosecond(row.time.into()).unwrap_or_default(),
            };
            let all = self.contacts.entry(AgentId { host, name }).or_default();
            all.retain(|one| one.registry != new.registry);
            all.push(new);
        }
    }

    /// Records which registries run. A contact of a registry that has ended counts as a contact that
    /// ended with the registry's last heartbeat. Returns whether anything that a reader sees may
    /// have changed.
    pub fn set_registries(&mut self, registries: &Registries) -> bool {
        let now = registries.now;
        let row = |row: &crate::catalog::RegistryRow| {
            (row.id.clone(), (row.heartbeat, row.is_there(now)))
        };
        let running = |all: &HashMap<String, (Timestamp, bool)>| -> HashSet<String> {
            all.iter().filter(|(_, (_, runs))| *runs).map(|(id, _)| id.clone()).collect()
        };
        let before = (running(&self.registries), self.connected);
        self.registries = registries.rows.iter().map(row).collect();
        self.forget_ended();
        self.connected = self.contacts.keys().filter(|agent| self.is_connected(agent)).count();
        before != (running(&self.registries), self.connected)
    }

    /// Of the contacts that have ended, only the newest of each agent is needed.
    fn forget_ended(&mut self) {
        let registries = std::mem::take(&mut self.registries);
        for all in self.contacts.values_mut().filter(|all| all.len() > 1) {
            let newest = all.iter().map(|one| one.seen(&registries)).max();
            all.retain(|one| one.is_live(&registries) || Some(one.seen(&registries)) == newest);
        }
        self.registries = registries;
    }

    /// The number of connected agents.
    pub fn count(&self) -> usize {
        self.connected
    }

    /// Whether the agent is connected.
    pub fn is_connected(&self, agent: &AgentId) -> bool {
        self.live(agent).next().is_some()
    }

    /// How many agents of a configuration are connected.
    pub fn count_of(&self, name: &ConfigurationName) -> usize {
        self.contacts.keys().filter(|agent| agent.name == *name && self.is_connected(agent)).count()
    }

    /// When the agent was last seen; `None` if no other registry knows the agent.
    pub fn last_seen(&self, agent: &AgentId) -> Option<Timestamp> {
        self.contacts.get(agent)?.iter().map(|one| one.seen(&self.registries)).max()
    }

    /// Whether any agent of a host is connected, or was last seen at `time` or later.
    pub fn has_host(&self, host: &str, time: Timestamp) -> bool {
        let of_host = self.contacts.iter().filter(|(agent, _)| agent.host.as_str() == host);
        of_host
            .flat_map(|(_, all)| all)
            .any(|one| one.is_live(&self.registries) || one.seen(&self.registries) >= time)
    }

    /// Whether agents with different directories are connected under the agent's name. `own` is the
    /// directory of an agent that is connected to this registry. An agent that has just gone to
    /// another registry keeps its directory.
    pub fn is_duplicate(&self, agent: &AgentId, own: Option<&str>) -> bool {
        let mut instances: HashSet<&str> = self.live(agent).map(|one| &*one.instance).collect();
        instances.extend(own);
        instances.len() > 1 || self.live(agent).any(|one| one.duplicate)
    }

    /// The address and the configuration of each agent.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, ConfigurationName)> {
        self.contacts.iter().flat_map(|(agent, all)| {
            all.iter().filter_map(|one| Some((one.address?, agent.name.clone())))
        })
    }

    fn live(&self, agent: &AgentId) -> impl Iterator<Item = &Contacted> {
        let all = self.contacts.get(agent).into_iter().flatten();
        all.filter(|one| one.is_live(&self.registries))
    }
}

impl Contacted {
    fn is_live(&self, registries: &HashMap<String, (Timestamp, bool)>) -> bool {
        self.connected && registries.get(&self.registry).is_some_and(|(_, runs)| *runs)
    }

    /// When the agent was last seen.
    fn seen(&self, registries: &HashMap<String, (Timestamp, bool)>) -> Timestamp {
        match registries.get(&self.registry) {
            Some((heartbeat, _)) if self.connected => self.time.max(*heartbeat),
            _ => self.time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Described, RegistryRow};

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn agent(host: &str) -> AgentId {
        AgentId { host: host.parse().unwrap(), name: "web".parse().unwrap() }
    }

    fn contact(registry: &str, host: &str, instance: &str, connected: bool) -> ContactRow {
        ContactRow {
            registry: registry.to_owned(),
            configuration: "web".to_owned(),
            host: host.to_owned(),
            instance: instance.to_owned(),
            address: "10.0.0.1".to_owned(),
            connected,
            duplicate: false,
            time: 50_000_000_000,
        }
    }

    fn registries(now: i64, heartbeats: &[(&str, i64)]) -> Registries {
        let row = |(id, heartbeat): &(&str, i64)| RegistryRow {
            id: (*id).to_owned(),
            described: Described::default(),
            started: time(0),
            heartbeat: time(*heartbeat),
            stopped: false,
        };
        let rows = heartbeats.iter().map(row).collect();
        Registries { now: time(now), own: "me".to_owned(), rows }
    }

    #[test]
    fn agent_of_a_registry_that_ended_was_last_seen_at_its_last_heartbeat() {
        let mut remote = RemoteContacts::default();
        remote.add(vec![contact("a", "h", "x", true)]);
        assert!(!remote.is_connected(&agent("h")), "the registry is unknown");
        assert!(remote.set_registries(&registries(100, &[("a", 99)])));
        assert!(!remote.set_registries(&registries(101, &[("a", 101)])));
        assert!(remote.is_connected(&agent("h")) && remote.has_host("h", time(500)));
        assert_eq!((remote.count(), remote.count_of(&"web".parse().unwrap())), (1, 1));
        assert!(remote.set_registries(&registries(120, &[("a", 101)])));
        assert!(!remote.is_connected(&agent("h")));
        assert_eq!(remote.last_seen(&agent("h")), Some(time(101)));
        assert!(remote.has_host("h", time(101)) && !remote.has_host("h", time(102)));
        remote.add(vec![contact("a", "h", "x", false)]);
        assert_eq!(remote.last_seen(&agent("h")), Some(time(50)));
    }

    #[test]
    fn agent_that_went_to_another_registry_is_no_duplicate() {
        let mut remote = RemoteContacts::default();
        remote.add(vec![contact("a", "h", "x", true), contact("b", "h", "x", true)]);
        remote.set_registries(&registries(100, &[("a", 99), ("b", 99)]));
        assert!(!remote.is_duplicate(&agent("h"), Some("x")));
        assert!(remote.is_duplicate(&agent("h"), Some("y")));
        remote.add(vec![contact("b", "h", "y", true)]);
        assert!(remote.is_duplicate(&agent("h"), None));
        remote.set_registries(&registries(120, &[("a", 119), ("b", 99)]));
        assert!(!remote.is_duplicate(&agent("h"), None));
        assert_eq!(remote.contacts[&agent("h")].len(), 1);
    }
}
