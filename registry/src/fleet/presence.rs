//! Records which agents are connected. The registry keeps this information only in memory. A
//! connection alone causes no writes to the disk, except that the janitor sometimes records that a
//! host is connected (see `-retire-after`). Registries that share a catalogue also tell each other
//! which agents are connected (see `contact_exchange`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use deploy_store::ConfigurationName;
use deploy_wire::fleet::SILENCE;
use jiff::Timestamp;

pub use super::agent_id::AgentId;
use super::remote_contacts::RemoteContacts;
use super::watch_signals::{WatchSignal, WatchSignals};
use crate::catalog::{ContactRow, Registries};

/// Maximum number of disconnected agents that the registry remembers. If there are more, the
/// registry forgets all disconnected agents.
const MOST_SEEN: usize = 200_000;

/// The time after which an old connection of an agent has certainly ended, if the agent has
/// connected again from a new address.
pub const DOUBT: Duration = SILENCE.saturating_add(Duration::from_secs(10));

/// The connected agents.
#[derive(Debug, Default)]
pub struct Presence {
    agents: Mutex<Agents>,
    /// The number of open watches. Each offer reads this number, so reading it takes no lock.
    count: AtomicUsize,
    /// The number of agents that are connected to other registries.
    elsewhere: AtomicUsize,
    remote: RwLock<RemoteContacts>,
    /// Whether other registries need to know which agents are connected.
    is_shared: AtomicBool,
}

#[derive(Debug, Default)]
struct Agents {
    connected: HashMap<AgentId, Vec<Live>>,
    /// When agents that are no longer connected were last seen, and at which address.
    seen: HashMap<AgentId, (Timestamp, IpAddr)>,
    next: u64,
    /// A counter that grows by one whenever a watch begins or ends.
    moves: u64,
    /// The agents whose contacts other registries do not know yet.
    untold: HashSet<AgentId>,
}

/// A watch of an agent.
#[derive(Debug, Clone)]
struct Live {
    number: u64,
    instance: String,
    address: IpAddr,
    signals: WatchSignals,
    since: Instant,
}

/// Counts an agent as connected until this value is dropped.
#[derive(Debug)]
pub struct Present {
    presence: Arc<Presence>,
    agent: AgentId,
    address: IpAddr,
    number: u64,
    /// The signals that the watch waits for.
    pub signals: WatchSignals,
    /// Whether another agent is connected under the same name.
    pub is_duplicate: bool,
    /// Whether all agents under this name have the same directory id. If so, they may be one agent
    /// that has connected again from a new address, and whose old connection is dead.
    pub is_same_instance: bool,
}

impl Presence {
    /// Records that an agent watches. An earlier watch of the same directory from the same address
    /// must be dead, so the earlier watch gets the signal [`WatchSignal::Replaced`].
    pub fn enter(self: &Arc<Self>, agent: AgentId, instance: &str, address: IpAddr) -> Present {
        let signals = WatchSignals::default();
        let mut agents = self.agents();
        agents.next += 1;
        let number = agents.next;
        let since = Instant::now();
        let live = Live {
            number,
            instance: instance.to_owned(),
            address,
            signals: signals.clone(),
            since,
        };
        let others = agents.connected.entry(agent.clone()).or_default();
        let same = |other: &Live| other.instance == instance && other.address == address;
        for other in others.iter().filter(|other| same(other)) {
            other.signals.send(WatchSignal::Replaced);
        }
        let is_elsewhere = self.remote().is_duplicate(&agent, Some(instance));
        let is_duplicate = is_elsewhere || others.iter().any(|other| !same(other));
        let is_same_instance =
            !is_elsewhere && others.iter().all(|other| other.instance == instance);
        others.push(live);
        agents.moves += 1;
        self.has_changed(&mut agents, &agent);
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(agents);
        Present {
            presence: Arc::clone(self),
            agent,
            address,
            number,
            signals,
            is_duplicate,
            is_same_instance,
        }
    }

    /// Whether the agent is connected to any registry.
    pub fn is_connected(&self, agent: &AgentId) -> bool {
        self.agents().connected.contains_key(agent) || self.remote().is_connected(agent)
    }

    /// Whether any agent of a host is connected, or was last seen at `time` or later.
    pub fn has_host(&self, host: &str, time: Timestamp) -> bool {
        let agents = self.agents();
        let is_of = |agent: &AgentId| agent.host.as_str() == host;
        agents.connected.keys().any(is_of)
            || agents.seen.iter().any(|(agent, (seen, _))| is_of(agent) && *seen >= time)
            || self.remote().has_host(host, time)
    }

    /// Whether several agents with different directories or addresses are connected under this
    /// name.
    pub fn is_duplicate(&self, agent: &AgentId) -> bool {
        let agents = self.agents();
        let live = agents.connected.get(agent);
        live.is_some_and(|live| is_mixed(live)) || self.is_duplicate_elsewhere(agent, live)
    }

    /// Whether another directory is connected to another registry under the agent's name.
    fn is_duplicate_elsewhere(&self, agent: &AgentId, live: Option<&Vec<Live>>) -> bool {
        let own = live.and_then(|live| live.first()).map(|one| &*one.instance);
        self.remote().is_duplicate(agent, own)
    }

    /// Like [`Presence::is_duplicate`], but ignores a second address until [`DOUBT`] has passed
    /// since the newest connection. Until then, a single agent may have connected again from a new
    /// address, and the connection from its old address may be dead.
    pub fn is_surely_duplicate(&self, agent: &AgentId) -> bool {
        let agents = self.agents();
        let live = agents.connected.get(agent);
        if self.is_duplicate_elsewhere(agent, live) {
            return true;
        }
        live.is_some_and(|live| {
            let is_other = |one: &Live| one.instance != live[0].instance;
            let newest = live.iter().map(|one| one.since).max();
            let is_settled = newest.is_some_and(|since| since.elapsed() > DOUBT);
            live.iter().any(is_other)
                || is_settled && live.iter().any(|one| one.address != live[0].address)
        })
    }

    /// When the agent last disconnected, or last reported without a watch; `None` if the registry
    /// remembers no such time.
    pub fn last_seen(&self, agent: &AgentId) -> Option<Timestamp> {
        let here = self.agents().seen.get(agent).map(|(time, _)| *time);
        here.max(self.remote().last_seen(agent))
    }

    /// The number of open watches, of all registries.
    pub fn count(&self) -> usize {
        self.count_here() + self.elsewhere.load(Ordering::Relaxed)
    }

    /// The number of open watches of this registry.
    pub fn count_here(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A counter that grows by one whenever a watch begins or ends. It is 0 at the start of the
    /// registry.
    pub fn moves(&self) -> u64 {
        self.agents().moves
    }

    /// How many agents of a configuration are connected.
    pub fn count_of(&self, name: &ConfigurationName) -> usize {
        let here = self.agents().connected.keys().filter(|agent| agent.name == *name).count();
        here + self.remote().count_of(name)
    }

    /// The address and the configuration of each agent that is connected or was seen since this
    /// registry started.
    pub fn addresses(&self) -> HashSet<(IpAddr, ConfigurationName)> {
        let agents = self.agents();
        let connected = agents.connected.iter();
        let connected =
            connected.flat_map(|(agent, live)| live.iter().map(|one| (one.address, &agent.name)));
        let seen = agents.seen.iter().map(|(agent, (_, address))| (*address, &agent.name));
        let here = connected.chain(seen).map(|(address, name)| (address, name.clone()));
        here.chain(self.remote().addresses()).collect()
    }

    /// Records that an agent reported from `address` without a watch.
    pub fn note(&self, agent: AgentId, address: IpAddr) {
        let mut agents = self.agents();
        agents.note(agent.clone(), address);
        self.has_changed(&mut agents, &agent);
    }

    /// Wakes the watches of a host's agents, because another registry changed the host.
    pub fn signal_host(&self, host: &str) {
        self.signal_all(|agent| agent.host.as_str() == host);
    }

    /// Wakes the watches of the agents for which `wakes` is true.
    pub fn signal_all(&self, wakes: impl Fn(&AgentId) -> bool) {
        let agents = self.agents();
        let woken = agents.connected.iter().filter(|(agent, _)| wakes(agent));
        for live in woken.flat_map(|(_, live)| live) {
            live.signals.send(WatchSignal::AgentChanged);
        }
    }

    /// From now on, remembers the contacts that other registries need to know.
    pub fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// The contacts that other registries do not know yet.
    pub fn take_untold(&self) -> Vec<(AgentId, ContactRow)> {
        let mut agents = self.agents();
        let untold = std::mem::take(&mut agents.untold);
        let row = |agent: AgentId| {
            let row = agents.row(&agent)?;
            Some((agent, row))
        };
        untold.into_iter().filter_map(row).collect()
    }

    /// Returns contacts that could not be written.
    pub fn return_untold(&self, untold: impl Iterator<Item = AgentId>) {
        self.agents().untold.extend(untold);
    }

    /// Records what the other registries have told.
    pub fn set_remote(&self, rows: Vec<ContactRow>, registries: &Registries) {
        let is_new = !rows.is_empty();
        let mut remote = self.remote.write().unwrap_or_else(PoisonError::into_inner);
        remote.add(rows);
        let is_new = remote.set_registries(registries) || is_new;
        self.elsewhere.store(remote.count(), Ordering::Relaxed);
        drop(remote);
        if is_new {
            self.agents().moves += 1;
        }
    }

    fn has_changed(&self, agents: &mut Agents, agent: &AgentId) {
        if self.is_shared.load(Ordering::Relaxed) {
            agents.untold.insert(agent.clone());
        }
    }

    fn remote(&self) -> RwLockReadGuard<'_, RemoteContacts> {
        self.remote.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watches of an agent, because an operator changed the agent or its host.
    pub fn signal(&self, agent: &AgentId) {
        let agents = self.agents();
        for live in agents.connected.get(agent).into_iter().flatten() {
            live.signals.send(WatchSignal::AgentChanged);
        }
    }

    /// Wakes all watches, because an operator changed maintenance windows.
    pub fn signal_windows(&self) {
        for live in self.agents().connected.values().flatten() {
            live.signals.send(WatchSignal::WindowsChanged);
        }
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut agents = self.presence.agents();
        agents.moves += 1;
        self.presence.count.fetch_sub(1, Ordering::Relaxed);
        self.presence.has_changed(&mut agents, &self.agent);
        let Some(live) = agents.connected.get_mut(&self.agent) else { return };
        live.retain(|one| one.number != self.number);
        if !live.is_empty() {
            return;
        }
        agents.connected.remove(&self.agent);
        agents.note(self.agent.clone(), self.address);
    }
}

/// Whether agents with different directories or addresses are among these watches.
fn is_mixed(live: &[Live]) -> bool {
    live.iter().any(|one| one.instance != live[0].instance || one.address != live[0].address)
}

impl Agents {
    /// The contact of an agent, for other registries.
    fn row(&self, agent: &AgentId) -> Option<ContactRow> {
        let row = |one: &Live| ContactRow {
            registry: String::new(),
            configuration: agent.name.to_string(),
            host: agent.host.to_string(),
            instance: one.instance.clone(),
            address: one.address.to_string(),
            connected: true,
            duplicate: false,
            time: nanoseconds(Timestamp::now()),
        };
        if let Some(live) = self.connected.get(agent)
            && let Some(last) = live.last()
        {
            return Some(ContactRow { duplicate: is_mixed(live), ..row(last) });
        }
        let (time, address) = self.seen.get(agent)?;
        Some(ContactRow {
            registry: String::new(),
            configuration: agent.name.to_string(),
            host: agent.host.to_string(),
            instance: String::new(),
            address: address.to_string(),
            connected: false,
            duplicate: false,
            time: nanoseconds(*time),
        })
    }

    fn note(&mut self, agent: AgentId, address: IpAddr) {
        if self.seen.len() >= MOST_SEEN {
            self.seen.clear();
        }
        self.seen.insert(agent, (Timestamp::now(), address));
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(host: &str) -> AgentId {
        AgentId { host: host.parse().unwrap(), name: "web".parse().unwrap() }
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test]
    async fn agent_that_connects_again_replaces_its_dead_watch() {
        let presence = Arc::new(Presence::default());
        let dead = presence.enter(agent("a"), "x", address(1));
        let again = presence.enter(agent("a"), "x", address(1));
        assert!(!again.is_duplicate && !presence.is_duplicate(&agent("a")));
        assert_eq!(dead.signals.next().await, WatchSignal::Replaced);
        drop(dead);
        assert!(presence.is_connected(&agent("a")) && presence.last_seen(&agent("a")).is_none());
        drop(again);
        assert!(!presence.is_connected(&agent("a")) && presence.last_seen(&agent("a")).is_some());
        assert_eq!(presence.count(), 0);
    }

    #[test]
    fn two_directories_or_two_addresses_under_one_name_are_duplicates() {
        let presence = Arc::new(Presence::default());
        let first = presence.enter(agent("a"), "x", address(1));
        assert!(!first.is_duplicate);
        let cloned = presence.enter(agent("a"), "x", address(2));
        assert!(cloned.is_duplicate && presence.is_duplicate(&agent("a")));
        drop(cloned);
        assert!(!presence.is_duplicate(&agent("a")));
        assert!(presence.enter(agent("a"), "y", address(1)).is_duplicate);
        assert!(!presence.enter(agent("b"), "y", address(1)).is_duplicate);
    }
}
