//! How many may be at the door: connections in all and from one source, those that have not
//! logged in yet, and how often a source may fail to, so that nobody can fill the server
//! without a key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections that have not logged in yet.
pub const MAX_UNAUTHENTICATED: usize = 200;
/// The same, from one address (of IPv6: from one /64).
pub const MAX_UNAUTHENTICATED_PER_SOURCE: usize = 50;
/// Connections in all.
pub const MAX_CONNECTIONS: usize = 10_000;
/// The same, from one source: a fleet behind one address must fit.
pub const MAX_CONNECTIONS_PER_SOURCE: usize = 5_000;
/// Connections of one source whose keys were refused, before others must wait.
pub const MAX_FAILED: u32 = 100;
/// No more of them are counted.
const MOST_FAILED: u32 = MAX_FAILED + 30;
/// Refusals are told of so often, with how many there were.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// After so long one of them is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);
/// Sources whose failures are remembered; of more, the oldest are forgotten.
const MAX_SOURCES: usize = 10_000;

/// The door.
#[derive(Debug, Default)]
pub struct Door(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    waiting: usize,
    by_source: HashMap<IpAddr, Source>,
    /// When a refusal was told of last, and how many there were since.
    told: Option<Instant>,
    untold: u64,
}

/// What one source does.
#[derive(Debug, Clone, Copy)]
struct Source {
    connections: usize,
    waiting: usize,
    /// Failures at the time `since`.
    failed: u32,
    since: Instant,
}

impl Source {
    fn new(now: Instant) -> Self {
        Self { connections: 0, waiting: 0, failed: 0, since: now }
    }

    /// Failures that are not forgotten yet.
    fn failures(&self, now: Instant) -> u32 {
        let gone = now.duration_since(self.since).as_secs() / FORGIVEN_AFTER.as_secs();
        self.failed.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    fn fail(&mut self, now: Instant) {
        self.failed = (self.failures(now) + 1).min(MOST_FAILED);
        self.since = now;
    }
}

/// A connection's right to be; gives its place back when dropped.
#[derive(Debug)]
pub struct Ticket {
    door: Arc<Door>,
    source: IpAddr,
    waiting: bool,
    refused: bool,
}

impl Door {
    /// Lets a connection from `address` in, or says what there are too many of.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, &'static str> {
        self.admit_at(address, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Ticket, &'static str> {
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
            return Err("too many failed logins from this address, wait a while");
        }
        counts.connections += 1;
        counts.waiting += 1;
        counts.forget_idle(now);
        let source = counts.by_source.entry(address).or_insert(from);
        source.connections += 1;
        source.waiting += 1;
        Ok(Ticket { door: Arc::clone(self), source: address, waiting: true, refused: false })
    }

    /// Whether it is time to tell of a refusal: then how many there were since the last time.
    pub fn is_to_tell(&self) -> Option<u64> {
        let (mut counts, now) = (self.counts(), Instant::now());
        counts.untold += 1;
        if counts.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return None;
        }
        counts.told = Some(now);
        Some(std::mem::take(&mut counts.untold))
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Makes room where there are too many sources: those without connections go.
    fn forget_idle(&mut self, now: Instant) {
        if self.by_source.len() >= MAX_SOURCES {
            self.by_source.retain(|_, source| source.connections > 0 || source.failures(now) > 1);
        }
    }
}

impl Ticket {
    /// No key of the client may log in.
    pub fn refused(&mut self) {
        self.refused = true;
    }

    /// The connection has logged in: its place at the door is free.
    pub fn logged_in(&mut self) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let mut counts = self.door.counts();
        counts.waiting -= 1;
        if let Some(source) = counts.by_source.get_mut(&self.source) {
            source.waiting -= 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (failed, now) = (self.waiting && self.refused, Instant::now());
        self.logged_in();
        let mut counts = self.door.counts();
        counts.connections -= 1;
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

/// One IPv6 user has a whole /64 of addresses.
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
    fn places_are_counted_by_source_and_given_back() {
        let door = Arc::new(Door::default());
        let here: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let there = |n: u64| IpAddr::from(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)));
        let mut tickets: Vec<Ticket> =
            (0..MAX_UNAUTHENTICATED_PER_SOURCE).map(|_| door.admit(here).unwrap()).collect();
        assert!(door.admit("127.0.0.1".parse().unwrap()).is_err());
        let other = (0..50).map(|n| door.admit(there(n)).unwrap()).collect::<Vec<_>>();
        assert!(door.admit(there(99)).is_err(), "one /64 is one source");
        drop(other);
        tickets[0].logged_in();
        let _more = door.admit(here).unwrap();
        assert!(door.admit(here).is_err());
        tickets.clear();
        assert_eq!(door.counts().connections, 1);
        assert_eq!(door.counts().waiting, 1);
    }

    #[test]
    fn who_fails_to_log_in_too_often_has_to_wait_and_others_do_not() {
        let door = Arc::new(Door::default());
        let [here, there]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        for _ in 0..MAX_FAILED {
            // Who only knocks does not fail.
            drop(door.admit(here).unwrap());
            door.admit(here).unwrap().refused();
        }
        assert!(door.admit(here).unwrap_err().contains("failed logins"));
        let mut good = door.admit(there).unwrap();
        good.logged_in();
        drop(good);
        assert!(!door.counts().by_source.contains_key(&there), "nothing to remember");
        let later = Instant::now() + 3 * FORGIVEN_AFTER;
        let mut patient = door.admit_at(here, later).unwrap();
        patient.logged_in();
        drop(patient);
        assert!(door.admit_at(here, later + FORGIVEN_AFTER * MAX_FAILED).is_ok());
    }
}
