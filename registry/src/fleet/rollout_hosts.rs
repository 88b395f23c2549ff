//! Computes the hosts of a rollout from the rows of the catalogue and from the connections.
//! The code is pure: it uses no disk, network or clock.

use std::sync::Arc;
use std::time::Duration;

use deploy_rollout::{Host, Member, Standing, Windows};
use deploy_store::Digest;
use deploy_wire::fleet::Phase;
use jiff::Timestamp;

use super::polls::{Poller, host_name};
use crate::catalog::fleet::{AgentRow, HostRow};
use crate::catalog::rollouts::NewUnit;

/// The longest time between two polls of an agent that only polls. After a longer time, the agent
/// counts as absent.
pub const POLL_DUE: Duration = Duration::from_secs(120);

/// What the registry knows about the connections of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// When the host became absent; `None` while the host is connected, or polls in time.
    pub away_since: Option<Timestamp>,
    /// Whether two agents report under the host's name.
    pub duplicate: bool,
}

/// The target of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The id of the target.
    pub id: Digest,
    /// The number of the change that started the rollout. Members repeat this number in their
    /// reports. A report with a lower number is about an earlier change.
    pub revision: u64,
    /// The id of the base, which is current while the rollout is active.
    pub base: Option<Digest>,
}

/// A host in the form that the rollout needs. `has_fetched` says whether a host that only polls has
/// read the target. `None` if the name in `row` is not a valid host name.
pub fn host(
    row: &HostRow,
    agent: &AgentRow,
    member: Option<Member>,
    target: Target,
    contact: Contact,
    has_fetched: bool,
    windows: Option<Arc<Windows>>,
) -> Option<Host> {
    let unknown = agent.report.phase == Phase::Unknown;
    // An agent that only polls ignores maintenance windows.
    let windows = windows.filter(|_| !unknown);
    let standing = if unknown && has_fetched && member.is_some() {
        Standing::Working
    } else {
        standing(agent, member.as_ref(), target)
    };
    Some(Host {
        id: row.number,
        name: row.name.parse().ok()?,
        group: row.group().to_owned(),
        standing,
        away_since: contact.away_since,
        duplicate: contact.duplicate,
        held: row.hold.is_some(),
        unknown,
        member,
        windows,
    })
}

/// The progress of the target's deploy on the host, according to the last report of the host's
/// agent.
fn standing(agent: &AgentRow, member: Option<&Member>, target: Target) -> Standing {
    let report = &agent.report;
    let is_about_target = report.wants == Some(target.id)
        && report.revision >= target.revision
        && member.is_some_and(|member| agent.reported >= member.offered);
    let is_bad = report.phase.is_failure() || report.phase == Phase::Held;
    match (is_about_target, report.phase) {
        (true, Phase::Healthy) if report.runs == Some(target.id) => Standing::Healthy,
        (true, _) if is_bad => Standing::Failed(why(agent)),
        (true, _) => Standing::Working,
        // A report of a failed earlier target does not count: the host has returned to the base,
        // and the base may be healthy.
        (false, _) if is_bad && report.wants == target.base => Standing::BaseUnhealthy,
        (false, _) => Standing::Base,
    }
}

fn why(agent: &AgentRow) -> String {
    let message = &agent.report.message;
    if message.is_empty() { agent.report.phase.word().to_owned() } else { message.clone() }
}

/// A host that only polls and has no row in the catalogue yet. `number` distinguishes such hosts,
/// and `last` is the time of the last poll. `None` if the address cannot be the name of a host.
pub fn unit(
    number: i64,
    poller: &Poller,
    last: Timestamp,
    now: Timestamp,
) -> Option<(Host, NewUnit)> {
    let name = host_name(poller.address).ok()?;
    let unit = NewUnit { id: -number, name: name.to_string(), key: poller.key.clone() };
    let host = Host {
        id: -number,
        name,
        group: String::new(),
        standing: Standing::Base,
        away_since: poll_missed(last, now),
        duplicate: false,
        held: false,
        unknown: true,
        member: None,
        windows: None,
    };
    Some((host, unit))
}

/// When an agent's next poll was due, if the agent has missed this poll. `last` is the time of the
/// agent's last poll.
pub fn poll_missed(last: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let due = last.checked_add(POLL_DUE).unwrap_or(Timestamp::MAX);
    (now > due).then_some(due)
}
