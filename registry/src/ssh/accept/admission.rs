//! Limits the number of connections: in all, from one source, before login, and of agents. A source
//! with too many failed logins is rate-limited. So a client without a key cannot use up all
//! connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of connections that have not logged in.
pub const MAX_UNAUTHENTICATED: usize = 200;
/// Maximum number of connections from one address (for IPv6, from one /64) that have not logged in.
pub const MAX_UNAUTHENTICATED_PER_SOURCE: usize = 50;
/// Maximum number of connections in all.
pub const MAX_CONNECTIONS: usize = 12_000;
/// Maximum number of connections of agents. The remaining connections are for operators.
pub const MAX_AGENTS: usize = 11_000;
/// Maximum number of connections from one source. A whole fleet may connect from one address.
pub const MAX_CONNECTIONS_PER_SOURCE: usize = MAX_AGENTS;
/// The server refuses connections from a source while the source has this many failed logins.
pub const MAX_FAILED: u32 = 100;
/// The server counts at most this many failures of a source.
const MOST_FAILED: u32 = MAX_FAILED + 30;
/// The server logs the number of refusals at most once in this time.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// Each time this period passes, the server forgets one failure of each source.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of sources that the server remembers. If there are more, the server forgets idle
/// sources.
const MAX_SOURCES: usize = 10_000;

/// Decides which connections are admitted.
#[derive(Debug, Default)]
pub struct AdmissionControl(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    waiting: usize,
    agents: usize,
    by_source: HashMap<IpAddr, Source>,
    /// The time at which refusals were last logged. `unlogged` is the number of refusals since
    /// then.
    logged: Option<Instant>,
    unlogged: u64,
}

/// The connections and failures of one source.
#[derive(Debug, Clone, Copy)]
struct Source {
    connections: usize,
    waiting: usize,
    /// The number of failures at the time `since`.
    failed: u32,
    since: Instant,
}

impl Source {
    fn new(now: Instant) -> Self {
        Self { connections: 0, waiting: 0, failed: 0, since: now }
    }

    /// The number of failures that still count.
    fn failures(&self, now: Instant) -> u32 {
        self.failed.saturating_sub(self.forgiven(now))
    }

    /// The number of failures that were forgiven since `since`.
    fn forgiven(&self, now: Instant) -> u32 {
        let gone = now.duration_since(self.since).as_secs() / FORGIVEN_AFTER.as_secs();
        u32::try_from(gone).unwrap_or(u32::MAX)
    }

    fn fail(&mut self, now: Instant) {
        let forgiven = self.forgiven(now);
        self.failed = (self.failures(now) + 1).min(MOST_FAILED);
        // Only whole periods forgive failures, and the rest of the time counts towards the next
        // period. Otherwise, a source that fails more than once in each period would never be
        // forgiven.
        self.since += FORGIVEN_AFTER * forgiven;
    }
}

/// The admission of a connection. After the value is dropped, the connection no longer counts
/// towards the limits.
#[derive(Debug)]
pub struct AdmissionGuard {
    control: Arc<AdmissionControl>,
    source: IpAddr,
    waiting: bool,
    refused: bool,
    is_agent: bool,
}

impl AdmissionControl {
    /// Admits a connection from `address`, or returns a text that says which limit is reached.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<AdmissionGuard, &'static str> {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<AdmissionGuard, &'static str> {
        let address = source_of(address);
        let mut counts = self.counts();
        let from = counts.by_source.get(&address).copied().unwrap_or_else(|| Source::new(now));
        if counts.connections >= MAX_CONNECTIONS {
            return Err("too many connections");
        }
        if from.connections >= MAX_CONNECTIONS_PER_SOURCE {
            return Err("too many connections from this address");
        }
        if counts.waiting >= MAX_UNAUTHENTICATED {
            return Err("too many connections that have not logged in");
        }
        if from.waiting >= MAX_UNAUTHENTICATED_PER_SOURCE {
            return Err("too many connections from this address that have not logged in");
        }
        if from.failures(now) >= MAX_FAILED {
            return Err("too many failed logins from this address; try again later");
        }
        counts.connections += 1;
        counts.waiting += 1;
        counts.forget_idle(now);
        let source = counts.by_source.entry(address).or_insert(from);
        source.connections += 1;
        source.waiting += 1;
        Ok(AdmissionGuard {
            control: Arc::clone(self),
            source: address,
            waiting: true,
            refused: false,
            is_agent: false,
        })
    }

    /// Counts a refusal. If it is time to log the refusals, returns their number.
    pub fn refusals_to_log(&self) -> Option<u64> {
        let (mut counts, now) = (self.counts(), Instant::now());
        counts.unlogged += 1;
        if counts.logged.is_some_and(|logged| now.duration_since(logged) < LOG_EVERY) {
            return None;
        }
        counts.logged = Some(now);
        Some(std::mem::take(&mut counts.unlogged))
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// If there are too many sources, forgets each source without connections and with at most one
    /// failure.
    fn forget_idle(&mut self, now: Instant) {
        if self.by_source.len() >= MAX_SOURCES {
            self.by_source.retain(|_, source| source.connections > 0 || source.failures(now) > 1);
        }
    }
}

impl AdmissionGuard {
    /// Records that the client's key was refused.
    pub fn refused(&mut self) {
        self.refused = true;
    }

    /// Records that the client has logged in as an agent. If a limit is reached, returns a text
    /// that says which limit.
    pub fn logged_in_as_agent(&mut self) -> Result<(), &'static str> {
        self.logged_in();
        let mut counts = self.control.counts();
        if !self.is_agent && counts.agents >= MAX_AGENTS {
            return Err("too many agents are connected");
        }
        counts.agents += usize::from(!self.is_agent);
        drop(counts);
        self.is_agent = true;
        Ok(())
    }

    /// Records that the client has logged in.
    pub fn logged_in(&mut self) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let mut counts = self.control.counts();
        counts.waiting -= 1;
        if let Some(source) = counts.by_source.get_mut(&self.source) {
            source.waiting -= 1;
        }
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        let (failed, now) = (self.waiting && self.refused, Instant::now());
        self.logged_in();
        let mut counts = self.control.counts();
        counts.connections -= 1;
        counts.agents -= usize::from(self.is_agent);
        let Some(source) = counts.by_source.get_mut(&self.source) else { return };
        source.connections -= 1;
        if failed {
            source.fail(now);
        }
        if source.connections == 0 && source.failures(now) == 0 {
            counts.by_source.remove(&self.source);
        }
    }
}

/// The source of an address. For IPv6 this is the /64 network, because one user has a whole /64 of
/// addresses.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_for_their_source_until_they_end() {
        let control = Arc::new(AdmissionControl::default());
        let here: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let there = |n: u64| IpAddr::from(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)));
        let mut guards: Vec<AdmissionGuard> =
            (0..MAX_UNAUTHENTICATED_PER_SOURCE).map(|_| control.admit(here).unwrap()).collect();
        assert!(control.admit("127.0.0.1".parse().unwrap()).is_err());
        let other = (0..50).map(|n| control.admit(there(n)).unwrap()).collect::<Vec<_>>();
        assert!(control.admit(there(99)).is_err(), "one /64 is one source");
        drop(other);
        guards[0].logged_in();
        let _more = control.admit(here).unwrap();
        assert!(control.admit(here).is_err());
        guards.clear();
        assert_eq!(control.counts().connections, 1);
        assert_eq!(control.counts().waiting, 1);
    }

    #[test]
    fn agents_leave_connections_for_operators() {
        let control = Arc::new(AdmissionControl::default());
        let here = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n % 250).unwrap()]);
        let mut agents = Vec::new();
        for n in 0..MAX_AGENTS {
            let mut agent = control.admit(here(n)).unwrap();
            agent.logged_in_as_agent().unwrap();
            agents.push(agent);
        }
        let mut last = control.admit(here(0)).unwrap();
        assert!(last.logged_in_as_agent().unwrap_err().contains("too many agents"));
        drop(last);
        control.admit(here(0)).unwrap().logged_in();
        agents.pop();
        control.admit(here(0)).unwrap().logged_in_as_agent().unwrap();
        drop(agents);
        assert_eq!(control.counts().agents, 0);
    }

    #[test]
    fn failures_are_forgiven_even_if_they_are_frequent() {
        let start = Instant::now();
        let mut source = Source::new(start);
        (1..=20).for_each(|n| source.fail(start + FORGIVEN_AFTER * n / 2));
        assert_eq!(source.failures(start + FORGIVEN_AFTER * 10), 10);
    }

    #[test]
    fn source_with_failed_logins_is_rate_limited_and_others_are_not() {
        let control = Arc::new(AdmissionControl::default());
        let [here, there]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        for _ in 0..MAX_FAILED {
            // A connection without a login attempt does not count as a failure.
            drop(control.admit(here).unwrap());
            control.admit(here).unwrap().refused();
        }
        assert!(control.admit(here).unwrap_err().contains("failed logins"));
        let mut good = control.admit(there).unwrap();
        good.logged_in();
        drop(good);
        assert!(!control.counts().by_source.contains_key(&there), "nothing to remember");
        let later = Instant::now() + 3 * FORGIVEN_AFTER;
        let mut patient = control.admit_at(here, later).unwrap();
        patient.logged_in();
        drop(patient);
        assert!(control.admit_at(here, later + FORGIVEN_AFTER * MAX_FAILED).is_ok());
    }
}
