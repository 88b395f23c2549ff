//! Finds out which state each host runs. The verb `fleet`, the directory `/fleet` over sftp, the
//! page and the metrics show the result.

use std::collections::{HashMap, HashSet};

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Label, Phase, Reason};
use jiff::Timestamp;

use crate::catalog::fleet::{AgentRow, CurrentState, FleetSnapshot, HostRow, Scope};
use crate::catalog::rollouts::{ActiveRollout, RolloutRow};
use crate::error::{Error, Result};
use crate::fleet::convergence::{self, Goal, Part, Standing, Tally};
use crate::fleet::polls::{Poller, address_of};
use crate::fleet::presence::AgentId;
use crate::fleet::rollout_hosts::poll_missed;
use crate::registry::Registry;
use crate::verbs::fleet_counts::{Counts, Seen, has_never_reported};
use crate::verbs::fleet_document::{ConfigurationStatus, FleetStatus, HostStatus};

/// Agents that only poll are shown if their last poll is at most this many seconds ago.
const RECENT: i64 = 24 * 60 * 60;

/// Conditions that select hosts.
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
    /// Only hosts that have not confirmed the state that they have to run, and are not held by an
    /// operator.
    pub behind: bool,
    /// Only hosts that count as this [`Part`], such as the failed hosts.
    pub only: Option<Part>,
    /// Only hosts that this wave of the active rollout has taken.
    pub wave: Option<u32>,
    /// Only hosts with names after this name.
    pub after: Option<HostName>,
    /// Maximum number of hosts to show; `None` means all.
    pub limit: Option<u64>,
}

/// Hosts of the fleet, with the counts of their configurations.
#[derive(Debug, Clone)]
pub(super) struct CountedFleet {
    /// Each configuration and its counts, sorted by name.
    pub configurations: Vec<ConfigurationStatus>,
    /// The agents that have a row in the catalogue.
    pub agents: Vec<Seen>,
    /// The agents that poll and have never reported.
    pub polling: Vec<HostStatus>,
}

impl Registry {
    /// The hosts that `query` selects, and the counts of the configurations.
    pub async fn fleet_status(&self, query: &FleetQuery) -> Result<FleetStatus> {
        let scope = Scope { name: query.name.as_ref(), host: query.host.as_ref() };
        let fleet = self.catalog.fleet_snapshot(scope).await?;
        if let Some(name) = query.name.as_ref().filter(|_| fleet.currents.is_empty()) {
            return Err(Error::NotFound(format!("configuration \"{name}\" not found")));
        }
        let counted = self.counted(fleet, query.group.as_ref());
        let is_part = |seen: &Seen| query.only.is_none_or(|only| seen.part() == Some(only));
        let known = counted.agents.into_iter().filter(is_part).map(|seen| seen.host);
        let polling = counted.polling.into_iter().filter(|_| query.only.is_none());
        let (hosts, more) = selected(known.chain(polling).collect(), query);
        Ok(FleetStatus { configurations: counted.configurations, hosts, more })
    }

    /// Counts the hosts of a fleet in one pass; with `group`, only the hosts of this group.
    pub(super) fn counted(&self, fleet: FleetSnapshot, group: Option<&Label>) -> CountedFleet {
        let FleetSnapshot { currents, hosts, agents, rollouts } = fleet;
        let mut all: Vec<Seen> = Vec::with_capacity(agents.len());
        for agent in agents {
            let Some(host) = hosts.get(&agent.host) else { continue };
            let Some(current) = currents.get(&agent.configuration) else { continue };
            let rollout = rollouts.get(&agent.configuration);
            all.push(self.seen(host, agent, current, rollout));
        }
        let mut polling = self.only_polling(&currents, &all);
        if let Some(group) = group {
            all.retain(|seen| seen.host.group == group.as_str());
            // The registry does not know the groups of hosts that only poll.
            polling.clear();
        }
        let mut counts = Counts::default();
        for seen in &all {
            counts.add(seen);
        }
        for host in &polling {
            counts.add_unknown(&host.configuration);
        }
        let mut configurations: Vec<ConfigurationStatus> = currents
            .iter()
            .map(|(name, current)| {
                counts.take(name, current, rollouts.get(name).map(|rollout| &rollout.row))
            })
            .collect();
        configurations.sort_by(|one, other| one.configuration.cmp(&other.configuration));
        CountedFleet { configurations, agents: all, polling }
    }

    /// Counts how many hosts have confirmed `goal`, have failed, are absent or are held. `fleet`
    /// has the hosts of one configuration. Also returns the names of the hosts that have failed.
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
            if convergence::part(&standing, goal) == Part::Failed {
                failed.push(host.name.clone());
            }
            standings.push(standing);
        }
        failed.sort();
        (convergence::tally(standings, goal), failed)
    }

    fn standing(&self, host: &HostRow, agent: &AgentRow) -> Standing {
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

    /// Whether the agent has polled recently; always false if the name of the agent's host is not
    /// an address.
    fn polls_now(&self, id: &AgentId, key: &str) -> bool {
        let Some(address) = address_of(id.host.as_str()) else { return false };
        let poller = Poller { name: id.name.clone(), key: key.to_owned(), address };
        let last = self.fleet.polls.last(&poller);
        last.is_some_and(|last| poll_missed(last, Timestamp::now()).is_none())
    }

    fn seen(
        &self,
        host: &HostRow,
        agent: AgentRow,
        current: &CurrentState,
        rollout: Option<&ActiveRollout>,
    ) -> Seen {
        let standing = self.standing(host, &agent);
        let row = rollout.map(|rollout| &rollout.row);
        let member = rollout.and_then(|rollout| rollout.members.get(&host.number));
        // A host that a wave has taken has to confirm the target. Every other host has to confirm
        // the current state.
        let goal = row.filter(|_| member.is_some()).map_or_else(|| goal_of(current), target_of);
        let id = agent_id(&host.name, &agent.configuration);
        let presence = &self.fleet.presence;
        let number = |hash: Option<Digest>, known: Option<i64>| match row
            .filter(|row| hash == Some(row.target_id))
        {
            _ if hash == Some(current.id) => Some(current.number),
            Some(row) => Some(row.target),
            None => known.map(i64::cast_unsigned),
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
            wave: member.map(|member| member.wave),
            reason: report.reason.map(Reason::word),
            message: report.message,
            version: report.version,
        };
        Seen { host: status, standing, goal, output: agent.output, exit_code: report.exit_code }
    }

    /// The agents that poll and have never reported.
    fn only_polling(
        &self,
        currents: &HashMap<String, CurrentState>,
        known: &[Seen],
    ) -> Vec<HostStatus> {
        let recent = Timestamp::now().as_second().saturating_sub(RECENT);
        let since = Timestamp::from_second(recent).unwrap_or(Timestamp::UNIX_EPOCH);
        let pollers = self.fleet.polls.since(since);
        if pollers.is_empty() {
            return Vec::new();
        }
        let watching = self.fleet.presence.addresses();
        let known: HashSet<(&str, &str)> =
            known.iter().map(|seen| (&*seen.host.host, &*seen.host.configuration)).collect();
        let is_unknown = |poller: &Poller| {
            let (address, name) = (poller.address.to_string(), poller.name.as_str());
            currents.contains_key(name)
                && !watching.contains(&(poller.address, poller.name.clone()))
                && !known.contains(&(&*address, name))
        };
        let unknown = pollers.into_iter().filter(|(poller, _)| is_unknown(poller));
        unknown.map(|(poller, time)| only_polls(&poller, time)).collect()
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

fn target_of(row: &RolloutRow) -> Goal {
    let min = deploy_wire::command::Share::ALL;
    Goal { revision: row.revision, id: row.target_id, min }
}

/// The hosts that `query` selects, sorted by host and configuration, and whether the query's limit
/// cut off further hosts. The next query begins after the last host name of this answer. So this
/// answer has all configurations of its last host, even beyond the limit.
fn selected(mut hosts: Vec<HostStatus>, query: &FleetQuery) -> (Vec<HostStatus>, bool) {
    let is_wanted = |host: &HostStatus| {
        query.phase.is_none_or(|phase| phase.word() == host.phase)
            && !(query.behind && (host.done || host.held.is_some()))
            && query.wave.is_none_or(|wave| host.wave == Some(wave))
            && query.after.as_ref().is_none_or(|after| host.host.as_str() > after.as_str())
    };
    hosts.retain(is_wanted);
    hosts.sort_by(|one, other| {
        (&one.host, &one.configuration).cmp(&(&other.host, &other.configuration))
    });
    let limit = usize::try_from(query.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let last = limit.checked_sub(1).and_then(|last| hosts.get(last));
    let of_last = last
        .map_or(0, |last| hosts[limit..].iter().take_while(|host| host.host == last.host).count());
    let shown = limit.saturating_add(of_last);
    let more = hosts.len() > shown;
    hosts.truncate(shown);
    (hosts, more)
}
