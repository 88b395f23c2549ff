//! Which configurations the hosts run. The verb `fleet`, the folder `/fleet` over sftp and the
//! metrics show this.

use std::collections::{BTreeMap, HashMap};

use deploy_rollout::Member;
use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Label, Phase, Reason};
use jiff::Timestamp;

use crate::catalog::fleet::{AgentRow, CurrentState, FleetSnapshot, HostRow, Scope};
use crate::catalog::rollouts::RolloutRow;
use crate::error::{Error, Result};
use crate::fleet::convergence::{self, Goal, Standing, Tally};
use crate::fleet::polls::{Poller, address_of};
use crate::fleet::presence::AgentId;
use crate::fleet::rollout_hosts::poll_missed;
use crate::registry::Registry;
use crate::verbs::fleet_document::{ConfigurationStatus, FleetStatus, HostStatus, RolloutBrief};

/// Agents that only poll are shown if their last poll is at most this many seconds ago.
const RECENT: i64 = 24 * 60 * 60;

/// Conditions for the hosts to show.
#[derive(Debug, Clone, Default)]
pub struct FleetQuery {
    /// Only hosts of this configuration.
    pub name: Option<ConfigurationName>,
    /// Only this host.
    pub host: Option<HostName>,
    /// Only hosts of this group.
    pub group: Option<Label>,
    /// Only hosts in this phase.
    pub phase: Option<Phase>,
    /// Only hosts that have not confirmed the current state and are not held by an operator.
    pub behind: bool,
    /// Only hosts with names after this name.
    pub after: Option<HostName>,
    /// Maximum number of hosts to show; `None` means all.
    pub limit: Option<u64>,
}

/// A host, its standing, and what it has to deploy.
type Counted = (HostStatus, Standing, Goal);

impl Registry {
    /// The part of the fleet that `query` selects.
    pub async fn fleet_status(&self, query: &FleetQuery) -> Result<FleetStatus> {
        let scope = Scope { name: query.name.as_ref(), host: query.host.as_ref() };
        let fleet = self.catalog.fleet_snapshot(scope).await?;
        if let Some(name) = query.name.as_ref().filter(|_| fleet.currents.is_empty()) {
            return Err(Error::NotFound(format!("configuration \"{name}\" not found")));
        }
        Ok(self.status_in(fleet, query))
    }

    /// The part of `fleet` that `query` selects.
    pub fn status_in(&self, fleet: FleetSnapshot, query: &FleetQuery) -> FleetStatus {
        let FleetSnapshot { currents, hosts, agents, rollouts } = fleet;
        let mut all: Vec<Counted> = Vec::with_capacity(agents.len());
        for agent in agents {
            let Some(host) = hosts.get(&agent.host) else { continue };
            let Some(current) = currents.get(&agent.configuration) else { continue };
            let rollout = rollouts.get(&agent.configuration);
            all.push(self.status_of(host, agent, current, rollout));
        }
        let polling = self.only_polling(&currents, &all);
        let in_group = |host: &HostStatus| {
            query.group.as_ref().is_none_or(|group| group.as_str() == host.group)
        };
        all.retain(|(host, ..)| in_group(host));
        let configurations = currents.iter().map(|(name, current)| {
            let of_it = || all.iter().filter(|(host, ..)| host.configuration == *name);
            let unknown = polling.iter().filter(|host| host.configuration == *name).count();
            let rollout = rollouts.get(name).map(|(row, _)| row);
            let unknown = if query.group.is_some() { 0 } else { unknown };
            summary(name, current, rollout, of_it(), unknown)
        });
        let mut configurations: Vec<ConfigurationStatus> = configurations.collect();
        configurations.sort_by(|one, other| one.configuration.cmp(&other.configuration));
        let mut shown: Vec<HostStatus> = all.into_iter().map(|(host, ..)| host).collect();
        shown.extend(polling.into_iter().filter(in_group));
        let (hosts, more) = selected(shown, query);
        FleetStatus { configurations, hosts, more }
    }

    /// Counts the hosts of one configuration that have confirmed `goal`, have failed, are absent, or
    /// are held. Also returns the names of the hosts that have failed.
    pub fn tally(
        &self,
        fleet: &FleetSnapshot,
        goal: &Goal,
        group: Option<&Label>,
    ) -> (Tally, Vec<String>) {
        let (mut standings, mut failed) = (Vec::new(), Vec::new());
        for agent in &fleet.agents {
            let Some(host) = fleet.hosts.get(&agent.host) else { continue };
            if group.is_some_and(|group| group.as_str() != host.group()) {
                continue;
            }
            let standing = self.standing(host, agent);
            if has_never_reported(&standing) {
                continue;
            }
            if convergence::is_failed(&standing, goal) {
                failed.push(host.name.clone());
            }
            standings.push(standing);
        }
        failed.sort();
        (convergence::tally(standings, goal), failed)
    }

    pub(super) fn standing(&self, host: &HostRow, agent: &AgentRow) -> Standing {
        let id = agent_id(&host.name, &agent.configuration);
        Standing {
            phase: agent.report.phase,
            runs: agent.report.runs,
            wants: agent.report.wants,
            revision: agent.report.revision,
            connected: id.is_some_and(|id| {
                self.fleet.presence.is_connected(&id) || self.polls_now(&id, &host.key)
            }),
            held: host.hold.is_some(),
        }
    }

    /// Whether the agent of a host without a name of its own has polled lately.
    fn polls_now(&self, id: &AgentId, key: &str) -> bool {
        let Some(address) = address_of(id.host.as_str()) else { return false };
        let poller = Poller { name: id.name.clone(), key: key.to_owned(), address };
        let last = self.fleet.polls.last(&poller);
        last.is_some_and(|last| poll_missed(last, Timestamp::now()).is_none())
    }

    fn status_of(
        &self,
        host: &HostRow,
        agent: AgentRow,
        current: &CurrentState,
        rollout: Option<&(RolloutRow, HashMap<i64, Member>)>,
    ) -> Counted {
        let standing = self.standing(host, &agent);
        let member = rollout.and_then(|(row, members)| Some((row, members.get(&host.number)?)));
        // A member of a wave has to deploy the target, and the other hosts keep the current state.
        let goal = member.map_or_else(|| goal_of(current), |(row, _)| target_of(row));
        let id = agent_id(&host.name, &agent.configuration);
        let presence = &self.fleet.presence;
        let number = |hash: Option<Digest>, known: Option<i64>| {
            let target = rollout.filter(|(row, _)| hash == Some(row.target_id));
            match target {
                _ if hash == Some(current.id) => Some(current.number),
                Some((row, _)) => Some(row.target),
                None => known.map(i64::cast_unsigned),
            }
        };
        let report = agent.report;
        let status = HostStatus {
            host: host.name.clone(),
            configuration: agent.configuration,
            group: host.group().to_owned(),
            phase: report.phase.word(),
            runs: number(report.runs, agent.state),
            runs_hash: report.runs,
            wants: number(report.wants, agent.state.filter(|_| report.wants == report.runs)),
            wants_hash: report.wants,
            done: convergence::is_done(&standing, &goal),
            since: Some(agent.since),
            connected: standing.connected,
            last_seen: if standing.connected {
                Timestamp::now()
            } else {
                let seen = id.as_ref().and_then(|id| presence.last_seen(id));
                seen.map_or(agent.reported, |seen| seen.max(agent.reported))
            },
            duplicate: id.is_some_and(|id| presence.is_duplicate(&id)),
            held: host.hold.as_ref().map(|hold| hold.message.clone()),
            wave: member.map(|(_, member)| member.wave),
            reason: report.reason.map(Reason::word),
            message: report.message,
            version: report.version,
        };
        (status, standing, goal)
    }

    /// The agents that poll and have never reported.
    fn only_polling(
        &self,
        currents: &HashMap<String, CurrentState>,
        known: &[Counted],
    ) -> Vec<HostStatus> {
        let recent = Timestamp::now().as_second().saturating_sub(RECENT);
        let since = Timestamp::from_second(recent).unwrap_or(Timestamp::UNIX_EPOCH);
        let watching = self.fleet.presence.addresses();
        let pollers = self.fleet.polls.since(since).into_iter();
        let unknown = pollers.filter(|(poller, _)| {
            let address = poller.address.to_string();
            !watching.contains(&(poller.address, poller.name.clone()))
                && !known.iter().any(|(host, ..)| {
                    host.host == address && host.configuration == poller.name.as_str()
                })
        });
        unknown
            .filter(|(poller, _)| currents.contains_key(poller.name.as_str()))
            .map(|(poller, time)| only_polls(&poller, time))
            .collect()
    }
}

pub(super) fn agent_id(host: &str, name: &str) -> Option<AgentId> {
    Some(AgentId { host: host.parse().ok()?, name: name.parse().ok()? })
}

fn goal_of(current: &CurrentState) -> Goal {
    let min = deploy_wire::command::Share::ALL;
    Goal { revision: current.revision, id: current.id, min }
}

/// The row of an agent that polls and has never reported.
fn only_polls(poller: &Poller, time: Timestamp) -> HostStatus {
    HostStatus {
        host: poller.address.to_string(),
        configuration: poller.name.to_string(),
        group: String::new(),
        phase: Phase::Unknown.word(),
        runs: None,
        runs_hash: None,
        wants: None,
        wants_hash: None,
        done: false,
        since: None,
        connected: false,
        last_seen: time,
        duplicate: false,
        held: None,
        wave: None,
        reason: None,
        message: format!("only polls, with the key {}", poller.key),
        version: String::new(),
    }
}

/// Whether the host only polls: a wave of a rollout has taken it, but it has never reported.
pub(super) fn has_never_reported(standing: &Standing) -> bool {
    let Standing { phase, runs, wants, revision, .. } = *standing;
    phase == Phase::Unknown && runs.is_none() && wants.is_none() && revision == 0
}

fn target_of(row: &RolloutRow) -> Goal {
    let min = deploy_wire::command::Share::ALL;
    Goal { revision: row.revision, id: row.target_id, min }
}

fn summary<'a>(
    name: &str,
    current: &CurrentState,
    rollout: Option<&RolloutRow>,
    hosts: impl Iterator<Item = &'a Counted>,
    unknown: usize,
) -> ConfigurationStatus {
    let mut phases: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut standings = Vec::new();
    let mut unknown = unknown;
    for (host, standing, goal) in hosts {
        if has_never_reported(standing) {
            unknown += 1;
            continue;
        }
        *phases.entry(host.phase).or_default() += 1;
        standings.push((*standing, *goal));
    }
    let tally = convergence::tally_each(standings, deploy_wire::command::Share::ALL);
    ConfigurationStatus {
        configuration: name.to_owned(),
        state: current.number,
        hash: current.id.to_string(),
        rollout: rollout.map(RolloutBrief::of),
        hosts: tally.hosts + tally.held,
        done: tally.done,
        behind: tally.hosts - tally.done,
        failed: tally.failed,
        absent: tally.absent,
        held: tally.held,
        unknown: unknown as u64,
        phases,
    }
}

/// The hosts that `query` selects, in order, and whether its limit cut off further hosts.
fn selected(mut hosts: Vec<HostStatus>, query: &FleetQuery) -> (Vec<HostStatus>, bool) {
    let is_wanted = |host: &HostStatus| {
        query.phase.is_none_or(|phase| phase.word() == host.phase)
            && !(query.behind && (host.done || host.held.is_some()))
            && query.after.as_ref().is_none_or(|after| host.host.as_str() > after.as_str())
    };
    hosts.retain(is_wanted);
    hosts.sort_by(|one, other| {
        (&one.host, &one.configuration).cmp(&(&other.host, &other.configuration))
    });
    let limit = usize::try_from(query.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let more = hosts.len() > limit;
    hosts.truncate(limit);
    (hosts, more)
}
