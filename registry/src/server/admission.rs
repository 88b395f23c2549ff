//! How many may be at the door: connections that have not logged in yet, in all and
//! from one source, so that nobody can fill the server without a key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that have not logged in yet.
pub const MAX_UNAUTHENTICATED: usize = 200;
/// The same, from one address (of IPv6: from one /64).
pub const MAX_UNAUTHENTICATED_PER_SOURCE: usize = 50;
/// Connections in all.
pub const MAX_CONNECTIONS: usize = 10_000;

/// The door.
#[derive(Debug, Default)]
pub struct Door(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    waiting: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A connection's right to be; gives its place back when dropped.
#[derive(Debug)]
pub struct Ticket {
    door: Arc<Door>,
    /// Where it came from, until it has logged in.
    waiting: Option<IpAddr>,
}

impl Door {
    /// Lets a connection from `address` in, or says what there are too many of.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Ticket, &'static str> {
        let source = source_of(address);
        let mut counts = self.counts();
        let from_source = counts.by_source.get(&source).copied().unwrap_or(0);
        if counts.connections >= MAX_CONNECTIONS {
            return Err("too many connections");
        }
        if counts.waiting >= MAX_UNAUTHENTICATED {
            return Err("too many connections that have not logged in");
        }
        if from_source >= MAX_UNAUTHENTICATED_PER_SOURCE {
            return Err("too many connections from this address that have not logged in");
        }
        counts.connections += 1;
        counts.waiting += 1;
        counts.by_source.insert(source, from_source + 1);
        Ok(Ticket { door: Arc::clone(self), waiting: Some(source) })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The connection has logged in: its place at the door is free.
    pub fn logged_in(&mut self) {
        let Some(source) = self.waiting.take() else { return };
        let mut counts = self.door.counts();
        counts.waiting -= 1;
        if let Some(count) = counts.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.by_source.remove(&source);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.logged_in();
        self.door.counts().connections -= 1;
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
}
