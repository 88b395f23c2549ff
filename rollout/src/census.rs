//! Takes the census: determines which hosts count, which of these hosts a wave may take, and which
//! are absent.

use std::collections::HashSet;

use deploy_wire::command::Share;
use deploy_wire::fleet::HostName;
use jiff::Timestamp;

use crate::duration_words::after;
use crate::percentage::rounded_down;
use crate::policy::Policy;
use crate::rollout_host::{Host, Standing};
use crate::selector::Selector;

/// The hosts of a rollout at the moment when a wave is due.
pub(crate) struct Census<'a> {
    /// The number of hosts that count.
    pub counting: u64,
    /// The hosts that a wave may take, in order of precedence.
    pub candidates: Vec<&'a Host>,
    /// The hosts that a wave could take if they were connected.
    pub missing: Vec<&'a Host>,
    /// The number of absent hosts. A host is absent if it counts, is away, and has not failed.
    pub absent: u64,
    /// The number of absent hosts that have been away for at least [`Policy::reconnect`]. The
    /// rollout does not wait for these hosts.
    pub long_absent: u64,
    /// The number of absent hosts that are good. These hosts disconnected after they had deployed
    /// the target.
    pub vanished: u64,
}

impl<'a> Census<'a> {
    /// Takes the census of these hosts at the time `now`.
    pub fn new(policy: &Policy, hosts: &'a [Host], now: Timestamp) -> Self {
        let named = named(policy);
        let mut census = Self {
            counting: 0,
            candidates: Vec::new(),
            missing: Vec::new(),
            absent: 0,
            long_absent: 0,
            vanished: 0,
        };
        for host in hosts.iter().filter(|host| counts(host, policy, &named)) {
            census.counting += 1;
            let is_free = host.member.is_none();
            match host.away_since {
                None if is_free => census.candidates.push(host),
                None => {}
                Some(since) => {
                    if is_free {
                        census.missing.push(host);
                    }
                    if !host.has_failed() {
                        census.absent += 1;
                        census.long_absent += u64::from(!is_fresh(since, policy, now));
                        census.vanished += u64::from(host.is_good());
                    }
                }
            }
        }
        census.candidates.sort_by_key(|host| precedence(host));
        census
    }

    /// Whether a host that `selector` selects has just disconnected, so that it may soon connect
    /// again.
    pub fn may_return(&self, selector: &Selector, policy: &Policy, now: Timestamp) -> bool {
        let fresh: Vec<&Host> = self
            .missing
            .iter()
            .filter(|host| host.away_since.is_some_and(|since| is_fresh(since, policy, now)))
            .copied()
            .collect();
        !pick(selector, &fresh, self.counting).is_empty()
    }
}

fn is_fresh(away_since: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    now < after(away_since, policy.reconnect)
}

/// The key for sorting hosts. Unhealthy hosts come first, because the target may repair them and
/// can hardly make them worse.
fn precedence(host: &Host) -> (bool, &str, i64) {
    (host.standing != Standing::BaseUnhealthy, host.name.as_str(), host.id)
}

/// All host names in the waves of the policy.
pub(crate) fn named(policy: &Policy) -> HashSet<&str> {
    policy.waves.selectors().iter().flat_map(names).collect()
}

fn names(selector: &Selector) -> impl Iterator<Item = &str> {
    let hosts = match selector {
        Selector::Hosts(hosts) => hosts.as_slice(),
        _ => &[],
    };
    hosts.iter().map(HostName::as_str)
}

/// Whether the host counts. A wave takes only hosts that count. It takes an absent host only after
/// that host has connected again.
pub(crate) fn counts(host: &Host, policy: &Policy, named: &HashSet<&str>) -> bool {
    !host.held && !host.duplicate && is_admitted(host, policy, named)
}

/// Whether the rollout admits the host. It admits all known hosts. It admits an unknown host if the
/// policy allows unknown hosts, or if a wave names the host or has taken it.
pub(crate) fn is_admitted(host: &Host, policy: &Policy, named: &HashSet<&str>) -> bool {
    !host.unknown
        || policy.allow_unknown
        || host.member.is_some()
        || named.contains(host.name.as_str())
}

/// The hosts that a wave takes from the candidates. `counting` is the number of hosts that count.
pub(crate) fn pick<'a>(
    selector: &Selector,
    candidates: &[&'a Host],
    counting: u64,
) -> Vec<&'a Host> {
    let is_selected: Box<dyn Fn(&Host) -> bool> = match selector {
        Selector::Group(group) => Box::new(|host| host.group == group.as_str()),
        Selector::Hosts(_) => {
            let named: HashSet<&str> = names(selector).collect();
            Box::new(move |host| named.contains(host.name.as_str()))
        }
        Selector::Count(_) | Selector::Percent(_) => Box::new(|_| true),
    };
    let most = most(selector, counting);
    candidates.iter().filter(|host| is_selected(host)).take(most).copied().collect()
}

/// The maximum number of hosts that the selector takes.
fn most(selector: &Selector, counting: u64) -> usize {
    let most = match selector {
        Selector::Group(_) | Selector::Hosts(_) | Selector::Percent(Share::ALL) => u64::MAX,
        Selector::Count(count) => *count,
        Selector::Percent(share) => rounded_down(*share, counting).max(1),
    };
    usize::try_from(most).unwrap_or(usize::MAX)
}
