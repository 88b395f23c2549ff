//! Finds the hosts of a rollout from the catalogue, the connections and the polls.

use std::collections::HashMap;

use deploy_rollout::{Host, Member, Plan, Policy, plan};
use deploy_store::{ConfigurationName, Digest};
use jiff::{SignedDuration, Timestamp};

use crate::catalog::fleet::{AgentRow, FleetSnapshot, HostRow, Scope};
use crate::catalog::rollouts::{NewUnit, RolloutRow, RolloutView};
use crate::error::Result;
use crate::fleet::polls::{Poller, host_name};
use crate::fleet::presence::AgentId;
use crate::fleet::rollout_hosts::{self, Contact, Target};
use crate::registry::Registry;

/// Agents that only poll take part in a rollout if their last poll is at most this many seconds
/// ago.
const RECENT: i64 = 24 * 60 * 60;

/// The hosts of a rollout.
#[derive(Debug, Clone, Default)]
pub struct RolloutHosts {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The hosts that have no row in the catalogue yet.
    pub units: Vec<NewUnit>,
}

/// The agents that only poll, by the name of the host and the fingerprint of the key.
type Pollers = HashMap<(String, String), (Poller, Timestamp)>;

impl Registry {
    /// Plans the waves that a rollout with this policy would have if it started now. Also returns
    /// the hosts.
    pub async fn plan_rollout(
        &self,
        name: &ConfigurationName,
        policy: &Policy,
    ) -> Result<(Plan, RolloutHosts)> {
        let scope = Scope { name: Some(name), host: None };
        let fleet = self.catalog.fleet_snapshot(scope).await?;
        let now = Timestamp::now();
        // The plan uses a target that does not exist. No host has got an offer of this target, so
        // no report is about it.
        let current = fleet.currents.get(name.as_str()).map(|current| current.id);
        let (id, revision) = (Digest::of(b""), u64::MAX);
        let target = Target { id, revision, base: current };
        let found = self.hosts_of(name, &fleet, target, now, |_| None, None);
        Ok((plan(policy, &found.hosts), found))
    }

    /// The hosts of a rollout at this moment.
    pub fn rollout_hosts(&self, view: &RolloutView, now: Timestamp) -> RolloutHosts {
        self.hosts_in(&view.fleet, &view.row, &view.members, now)
    }

    /// The hosts of the rollout `row` with these members. `fleet` may also have hosts of other
    /// configurations.
    pub(super) fn hosts_in(
        &self,
        fleet: &FleetSnapshot,
        row: &RolloutRow,
        members: &HashMap<i64, Member>,
        now: Timestamp,
    ) -> RolloutHosts {
        let base = fleet.currents.get(row.configuration.as_str()).map(|current| current.id);
        let target = Target { id: row.target_id, revision: row.revision, base };
        let member = |host: i64| members.get(&host).cloned();
        self.hosts_of(&row.configuration, fleet, target, now, member, Some(row.number))
    }

    fn hosts_of(
        &self,
        name: &ConfigurationName,
        fleet: &FleetSnapshot,
        target: Target,
        now: Timestamp,
        member: impl Fn(i64) -> Option<Member>,
        number: Option<u64>,
    ) -> RolloutHosts {
        let mut found = RolloutHosts::default();
        let mut pollers = self.pollers(name, now);
        for agent in fleet.agents.iter().filter(|agent| agent.configuration == name.as_str()) {
            let Some(row) = fleet.hosts.get(&agent.host) else { continue };
            let poller = pollers.remove(&(row.name.clone(), row.key.clone()));
            let contact = self.contact(row, agent, poller.as_ref().map(|(_, time)| *time), now);
            let has_fetched = number
                .zip(poller)
                .is_some_and(|(number, (poller, _))| self.fleet.polls.has_fetched(&poller, number));
            let windows = self.fleet.maintenance.of(row.group());
            let member = member(row.number);
            let host =
                rollout_hosts::host(row, agent, member, target, contact, has_fetched, windows);
            found.hosts.extend(host);
        }
        // A host name belongs to the key with which the host was added.
        let owners: HashMap<&str, &str> =
            fleet.hosts.values().map(|host| (host.name.as_str(), host.key.as_str())).collect();
        let watching = self.fleet.presence.addresses();
        let mut new: Vec<(Poller, Timestamp)> = pollers
            .into_iter()
            .filter(|((host, key), _)| owners.get(host.as_str()).is_none_or(|owner| owner == key))
            .map(|(_, found)| found)
            .filter(|(poller, _)| !watching.contains(&(poller.address, poller.name.clone())))
            .collect();
        new.sort();
        for (count, (poller, time)) in (1..).zip(new) {
            if let Some((host, unit)) = rollout_hosts::unit(count, &poller, time, now) {
                found.hosts.push(host);
                found.units.push(unit);
            }
        }
        found
    }

    fn pollers(&self, name: &ConfigurationName, now: Timestamp) -> Pollers {
        let since = now.saturating_sub(SignedDuration::from_secs(RECENT)).unwrap_or(now);
        let named = |(poller, time): (Poller, Timestamp)| {
            let host = host_name(poller.address).ok()?;
            Some(((host.to_string(), poller.key.clone()), (poller, time)))
        };
        self.fleet.polls.of(name, since).into_iter().filter_map(named).collect()
    }

    /// Since when a host has been away, and whether several agents use its name.
    fn contact(
        &self,
        row: &HostRow,
        agent: &AgentRow,
        polled: Option<Timestamp>,
        now: Timestamp,
    ) -> Contact {
        let gone = Contact { away_since: Some(self.fleet.started), duplicate: false };
        let (Ok(host), Ok(name)) = (row.name.parse(), agent.configuration.parse()) else {
            return gone;
        };
        let id = AgentId { host, name };
        let presence = &self.fleet.presence;
        let duplicate = presence.is_surely_duplicate(&id);
        if presence.is_connected(&id) {
            return Contact { away_since: None, duplicate };
        }
        let away_since = match polled {
            Some(polled) => rollout_hosts::poll_missed(polled, now),
            None => {
                let seen = presence.last_seen(&id).unwrap_or(self.fleet.started);
                Some(seen.max(agent.reported).max(self.fleet.started).min(now))
            }
        };
        Contact { away_since, duplicate }
    }
}
