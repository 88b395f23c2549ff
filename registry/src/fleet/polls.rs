//! Remembers the last polls of agents. The registry needs them for agents that only poll, such as
//! the Go tool's agents of 2017, which neither watch nor report. This module also remembers the
//! states that the registry offers to these agents while their hosts are held.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use deploy_store::ConfigurationName;
use deploy_wire::fleet::HostName;
use deploy_wire::fleet::host_name::BadName;
use jiff::{SignedDuration, Timestamp};

use crate::catalog::PollRow;

/// Maximum number of agents that the registry remembers. If there are more agents, the registry
/// forgets the half of them whose last polls are oldest.
const MOST: usize = 20_000;
/// Other registries learn of a poll only if the last poll that they know is older than this. The
/// value is well below [`super::rollout_hosts::POLL_DUE`].
const TELL_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// An agent that polls. Two agents that share all these fields count as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Poller {
    /// The configuration.
    pub name: ConfigurationName,
    /// The fingerprint of the agent's key.
    pub key: String,
    /// The agent's address.
    pub address: IpAddr,
}

/// Makes the name of a host that the registry knows only by the host's address.
pub fn host_name(address: IpAddr) -> Result<HostName, BadName> {
    let address = address.to_canonical();
    let text = address.to_string().replace(':', "-");
    if address.is_ipv6() { format!("ip6-{text}").parse() } else { text.parse() }
}

/// The address of a host, if the host's name is an address.
pub fn address_of(name: &str) -> Option<IpAddr> {
    match name.strip_prefix("ip6-") {
        Some(rest) => rest.replace('-', ":").parse().ok(),
        None => name.parse().ok(),
    }
}

/// What the registry knows about agents that poll.
#[derive(Debug, Default)]
pub struct Polls(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last: HashMap<Poller, Timestamp>,
    /// The number of the state to offer to agents of held hosts, by key and configuration.
    held: HashMap<(String, ConfigurationName), u64>,
    /// For each agent, the number of the last rollout whose target the agent has read.
    fetched: HashMap<Poller, u64>,
    /// For each agent, the last poll that the other registries of a shared catalogue know.
    told: HashMap<Poller, Timestamp>,
}

impl Polls {
    /// Records a poll. If all hosts with the agent's key and configuration are held, returns the
    /// number of the state to offer.
    pub fn polled(&self, poller: Poller, now: Timestamp) -> Option<u64> {
        let mut known = self.known();
        let held = if known.held.is_empty() {
            None
        } else {
            known.held.get(&(poller.key.clone(), poller.name.clone())).copied()
        };
        known.make_room(&poller);
        known.last.insert(poller, now);
        held
    }

    /// Records that an agent has read the target of the rollout `number`.
    pub fn fetched(&self, poller: &Poller, number: u64) {
        let mut known = self.known();
        known.fetched.insert(poller.clone(), number);
        known.told.remove(poller);
    }

    /// The polls that other registries need to know.
    pub fn take_untold(&self) -> Vec<PollRow> {
        let mut known = self.known();
        let Known { last, fetched, told, .. } = &mut *known;
        let is_due = |poller: &Poller, time: Timestamp| {
            told.get(poller).is_none_or(|known| time.duration_since(*known) >= TELL_AFTER)
        };
        let due: Vec<(Poller, Timestamp)> = last
            .iter()
            .filter(|(poller, time)| is_due(poller, **time))
            .map(|(poller, time)| (poller.clone(), *time))
            .collect();
        let row = |(poller, time): (Poller, Timestamp)| {
            let fetched = fetched.get(&poller).copied().unwrap_or(0);
            let row = PollRow {
                configuration: poller.name.to_string(),
                key: poller.key.clone(),
                address: poller.address.to_string(),
                time: i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX),
                fetched: fetched.cast_signed(),
            };
            told.insert(poller, time);
            row
        };
        due.into_iter().map(row).collect()
    }

    /// Records that other registries could not be told.
    pub fn forget_told(&self) {
        self.known().told.clear();
    }

    /// Records the polls of other registries.
    pub fn add(&self, rows: Vec<PollRow>) {
        let mut known = self.known();
        for row in rows {
            let (Ok(name), Ok(address)) = (row.configuration.parse(), row.address.parse()) else {
                continue;
            };
            let poller = Poller { name, key: row.key, address };
            let time = Timestamp::from_nanosecond(row.time.into()).unwrap_or_default();
            if known.last.get(&poller).is_none_or(|last| *last < time) {
                known.make_room(&poller);
                known.last.insert(poller.clone(), time);
                known.told.insert(poller.clone(), time);
            }
            let fetched = row.fetched.cast_unsigned();
            if fetched > known.fetched.get(&poller).copied().unwrap_or(0) {
                known.fetched.insert(poller, fetched);
            }
        }
    }

    /// Whether the rollout `number` is the last rollout whose target the agent has read.
    pub fn has_fetched(&self, poller: &Poller, number: u64) -> bool {
        self.known().fetched.get(poller) == Some(&number)
    }

    /// The time of an agent's last poll, if the registry remembers the agent.
    pub fn last(&self, poller: &Poller) -> Option<Timestamp> {
        self.known().last.get(poller).copied()
    }

    /// The agents of a configuration that polled since `since`, and the times of their last polls.
    pub fn of(&self, name: &ConfigurationName, since: Timestamp) -> Vec<(Poller, Timestamp)> {
        let known = self.known();
        let recent =
            known.last.iter().filter(|(poller, time)| poller.name == *name && **time >= since);
        recent.map(|(poller, time)| (poller.clone(), *time)).collect()
    }

    /// The agents that polled since `since`, and the times of their last polls, sorted by agent.
    pub fn since(&self, since: Timestamp) -> Vec<(Poller, Timestamp)> {
        let known = self.known();
        let recent = known.last.iter().filter(|(_, time)| **time >= since);
        let mut pollers: Vec<_> = recent.map(|(poller, time)| (poller.clone(), *time)).collect();
        drop(known);
        pollers.sort();
        pollers
    }

    /// Sets the states to offer to agents while all hosts with their key and configuration are
    /// held.
    pub fn set_held(&self, held: HashMap<(String, ConfigurationName), u64>) {
        self.known().held = held;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Makes room for one more agent, if necessary.
    fn make_room(&mut self, new: &Poller) {
        let Self { last, fetched, told, .. } = self;
        if last.len() < MOST || last.contains_key(new) {
            return;
        }
        let mut times: Vec<Timestamp> = last.values().copied().collect();
        times.sort();
        let middle = times[times.len() / 2];
        last.retain(|_, time| *time > middle);
        fetched.retain(|poller, _| last.contains_key(poller));
        told.retain(|poller, _| last.contains_key(poller));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poller(n: usize) -> Poller {
        let address = [10, 0, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()];
        Poller { name: "web".parse().unwrap(), key: "k".to_owned(), address: address.into() }
    }

    #[test]
    fn name_of_an_unnamed_host_is_its_address() {
        for address in ["10.0.0.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().unwrap();
            let name = host_name(address).unwrap();
            assert_eq!(address_of(name.as_str()), Some(address), "{name}");
        }
        assert_eq!(address_of("web-01"), None);
    }

    #[test]
    fn oldest_pollers_are_forgotten() {
        let polls = Polls::default();
        let time = |n: usize| Timestamp::from_second(i64::try_from(n).unwrap()).unwrap();
        for n in 0..MOST + 10 {
            assert_eq!(polls.polled(poller(n), time(n)), None);
        }
        assert!(polls.known().last.len() <= MOST);
        assert_eq!(polls.since(time(MOST + 5)).len(), 5);
    }

    #[test]
    fn other_registries_are_told_of_a_poll_every_ten_seconds() {
        let (polls, other) = (Polls::default(), Polls::default());
        let time = |second| Timestamp::from_second(second).unwrap();
        polls.polled(poller(1), time(100));
        let told = polls.take_untold();
        assert_eq!(told.len(), 1);
        other.add(told);
        assert_eq!(other.last(&poller(1)), Some(time(100)));
        assert!(other.take_untold().is_empty(), "the other registry knows it from the catalogue");
        polls.polled(poller(1), time(109));
        assert!(polls.take_untold().is_empty());
        polls.fetched(&poller(1), 7);
        other.add(polls.take_untold());
        assert!(other.has_fetched(&poller(1), 7));
        assert_eq!(other.last(&poller(1)), Some(time(109)));
        polls.polled(poller(1), time(119));
        assert_eq!(polls.take_untold().len(), 1);
        polls.forget_told();
        assert_eq!(polls.take_untold().len(), 1);
    }

    #[test]
    fn poll_of_a_held_host_gets_the_recorded_state() {
        let polls = Polls::default();
        polls.set_held([(("k".to_owned(), "web".parse().unwrap()), 7)].into());
        assert_eq!(polls.polled(poller(1), Timestamp::UNIX_EPOCH), Some(7));
        let other = Poller { key: "other".to_owned(), ..poller(1) };
        assert_eq!(polls.polled(other, Timestamp::UNIX_EPOCH), None);
    }
}
