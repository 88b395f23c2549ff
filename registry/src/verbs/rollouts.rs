//! Steers rollouts: reads what a decision needs, asks the crate `deploy-rollout`, and writes what
//! it decides.

use std::collections::HashSet;

use deploy_rollout::{Change as Step, Command, Host, Plan, Policy, Rollout, plan, step};
use deploy_store::ConfigurationName;
use jiff::Timestamp;

use crate::catalog::Change;
use crate::catalog::fleet::{AgentRow, FleetSnapshot, HostRow};
use crate::catalog::rollouts::{NewUnit, RolloutView, Steps};
use crate::error::{Error, Result};
use crate::fleet::polls::{Poller, host_name};
use crate::fleet::presence::AgentId;
use crate::fleet::rollout_hosts::{self, Contact, Target};
use crate::registry::Registry;

/// The rollout that a step is about may change at the same time. The step is then decided again,
/// but not for ever.
const TRIES: usize = 20;
/// Agents that only poll take part if their last poll is at most this many seconds ago.
const RECENT: i64 = 24 * 60 * 60;

/// The hosts of a rollout.
#[derive(Debug, Clone, Default)]
pub struct RolloutHosts {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Those of them that have no row in the catalogue yet.
    pub units: Vec<NewUnit>,
}

impl Registry {
    /// Reads what active rollouts show to which hosts.
    pub async fn load_rollouts(&self) -> Result<()> {
        for name in self.catalog.rolling().await? {
            self.show_last_rollout(&name).await?;
        }
        Ok(())
    }

    /// Reads the last rollout of a configuration, and shows its target to its members.
    async fn show_last_rollout(&self, name: &ConfigurationName) -> Result<Option<RolloutView>> {
        let changes = self.catalog.changes.subscribe(name);
        let view = self.catalog.rollout(name, None).await?;
        self.fleet.show_rollout(name, view.as_ref(), changes).await?;
        Ok(view)
    }

    /// Makes the steps of a configuration's rollout that are due. Returns when to look again at the
    /// latest; `None` if only an operator can change the rollout.
    pub async fn step_rollout(&self, name: &ConfigurationName) -> Result<Option<Timestamp>> {
        for _ in 0..TRIES {
            let view = self.show_last_rollout(name).await?;
            let Some(view) = view.filter(|view| view.row.ended.is_none()) else { return Ok(None) };
            let now = Timestamp::now();
            let found = self.rollout_hosts(&view, now);
            let step = step(&view.row.rollout, &found.hosts, now);
            if step.changes.is_empty() {
                return Ok(step.next);
            }
            match self
                .write_steps(&view, found, &step.changes, &own(&view, &step.changes, now))
                .await
            {
                Err(Error::Conflict(_)) | Ok(_) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Some(Timestamp::now()))
    }

    /// Runs the command of an operator on the active rollout of a configuration, and makes the
    /// steps that follow.
    pub async fn command_rollout(
        &self,
        name: &ConfigurationName,
        command: impl Fn(&RolloutView, &[Host]) -> Result<Command>,
        change: &Change,
    ) -> Result<Rollout> {
        for _ in 0..TRIES {
            let view = self.catalog.rollout(name, None).await?;
            let view = view.ok_or_else(|| no_rollout(name))?;
            let found = self.rollout_hosts(&view, change.now);
            let wanted = command(&view, &found.hosts)?;
            let changes =
                deploy_rollout::command(&view.row.rollout, &found.hosts, &wanted, change.now);
            let changes = changes.map_err(|why| Error::Conflict(why.to_string()))?;
            match self.write_steps(&view, found, &changes, change).await {
                // Another registry, or a report, was faster.
                Err(Error::Conflict(_)) => {}
                Err(err) => return Err(err),
                Ok(rollout) => {
                    self.step_rollout(name).await?;
                    return Ok(rollout);
                }
            }
        }
        Err(Error::Busy(format!("the rollout of \"{name}\" changes all the time; try again")))
    }

    async fn write_steps(
        &self,
        view: &RolloutView,
        found: RolloutHosts,
        changes: &[Step],
        change: &Change,
    ) -> Result<Rollout> {
        let is_audited = changes.iter().any(is_notable);
        let RolloutHosts { hosts, units } = found;
        let steps = Steps { row: &view.row, changes, hosts, units: &units, change, is_audited };
        self.catalog.advance(steps).await
    }

    /// The waves of a rollout of this policy that would start now.
    pub async fn plan_rollout(
        &self,
        name: &ConfigurationName,
        policy: &Policy,
    ) -> Result<(Plan, RolloutHosts)> {
        let scope = crate::catalog::fleet::Scope { name: Some(name), host: None };
        let fleet = self.catalog.fleet_snapshot(scope).await?;
        let now = Timestamp::now();
        // No report is about a target that nobody was offered.
        let target = Target { id: deploy_store::Digest::of(b""), revision: u64::MAX };
        let found = self.hosts_of(name, &fleet, target, now, |_| None, None);
        Ok((plan(policy, &found.hosts), found))
    }

    /// The hosts of a rollout at this moment.
    pub fn rollout_hosts(&self, view: &RolloutView, now: Timestamp) -> RolloutHosts {
        let row = &view.row;
        let target = Target { id: row.target_id, revision: row.revision };
        let member = |host: i64| view.members.get(&host).cloned();
        self.hosts_of(&row.configuration, &view.fleet, target, now, member, Some(row.number))
    }

    fn hosts_of(
        &self,
        name: &ConfigurationName,
        fleet: &FleetSnapshot,
        target: Target,
        now: Timestamp,
        member: impl Fn(i64) -> Option<deploy_rollout::Member>,
        number: Option<u64>,
    ) -> RolloutHosts {
        let mut found = RolloutHosts::default();
        let mut named = HashSet::new();
        let polls = &self.fleet.polls;
        let pollers =
            polls.since(now.saturating_sub(jiff::SignedDuration::from_secs(RECENT)).unwrap_or(now));
        let pollers: Vec<(String, Poller, Timestamp)> = pollers
            .into_iter()
            .filter(|(poller, _)| poller.name == *name)
            .filter_map(|(poller, time)| {
                Some((host_name(poller.address).ok()?.to_string(), poller, time))
            })
            .collect();
        for agent in &fleet.agents {
            let Some(row) = fleet.hosts.get(&agent.host) else { continue };
            named.insert(row.name.as_str());
            let poller =
                pollers.iter().find(|(host, poller, _)| *host == row.name && poller.key == row.key);
            let contact = self.contact(row, agent, poller.map(|(_, _, time)| *time), now);
            let windows = self.fleet.maintenance.of(row.group());
            let has_fetched = number
                .zip(poller)
                .is_some_and(|(number, (_, poller, _))| polls.has_fetched(poller, number));
            let host = rollout_hosts::host(
                row,
                agent,
                member(row.number),
                target,
                contact,
                has_fetched,
                windows,
            );
            found.hosts.extend(host);
        }
        let watching = self.fleet.presence.addresses();
        let new = pollers.iter().filter(|(host, poller, _)| {
            !named.contains(host.as_str())
                && !watching.contains(&(poller.address, poller.name.clone()))
        });
        for (count, (_, poller, time)) in (1..).zip(new) {
            if let Some((host, unit)) = rollout_hosts::unit(count, poller, *time, now) {
                found.hosts.push(host);
                found.units.push(unit);
            }
        }
        found
    }

    /// What the connections say about a host.
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
        let duplicate = presence.is_duplicate(&id);
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

fn no_rollout(name: &ConfigurationName) -> Error {
    Error::NotFound(format!("configuration \"{name}\" has no rollout; see rollout list"))
}

/// Whether the audit trail gets an entry.
fn is_notable(step: &Step) -> bool {
    !matches!(step, Step::Healthy { .. } | Step::NotHealthy { .. } | Step::Good { .. })
}

/// The audit data of a step that the registry makes by itself.
fn own(view: &RolloutView, changes: &[Step], now: Timestamp) -> Change {
    let own = format!("rollout {}", view.row.number);
    let what: Vec<String> = changes.iter().filter(|step| is_notable(step)).map(described).collect();
    Change {
        user: own.clone(),
        key: own.clone(),
        address: String::new(),
        command: format!("rollout -name={} {}", view.row.configuration, what.join(", ")),
        now,
        overrides: false,
        rolling: deploy_wire::command::Rolling::default(),
    }
}

fn described(step: &Step) -> String {
    match step {
        Step::OpenWave { wave, hosts, .. } => {
            format!("wave {wave} opens with {} hosts", hosts.len())
        }
        Step::Fail { host, failure } => format!("host {host} failed: {failure}"),
        Step::BeginSoak => "the soak begins".to_owned(),
        Step::Halt { why } => format!("halts: {why}"),
        Step::Pause { why } => format!("pauses: {why}"),
        Step::Succeed => "succeeds".to_owned(),
        Step::AwaitHosts => "waits for hosts that have just disconnected".to_owned(),
        Step::Leave { host } => format!("host {host} is held"),
        Step::Return { host } => format!("host {host} is released"),
        other => format!("{other:?}"),
    }
}
