//! Plans a rollout for the flag `-n`. The plan states what the rollout would do if no host changed.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::census::{Census, counts, is_admitted, named, pick};
use crate::policy::Policy;
use crate::rollout_host::Host;
use crate::wave_opening::{budget, too_many_absent};

/// The actions of a rollout that starts now, if no host changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The waves.
    pub waves: Vec<PlannedWave>,
    /// The number of hosts that count.
    pub counting: u64,
    /// The number of hosts that may fail.
    pub budget: u64,
    /// The reason why the rollout would halt immediately, if there is one.
    pub halt: Option<String>,
    /// The hosts that are away. If such a host connects before the last wave opens, a wave takes
    /// it. Otherwise, it gets the target after the rollout has succeeded.
    pub absent: Vec<i64>,
    /// The hosts that an operator holds.
    pub held: Vec<i64>,
    /// The hosts whose name two agents use.
    pub duplicate: Vec<i64>,
    /// The unknown hosts that no wave takes. These hosts get the target after the rollout has
    /// succeeded.
    pub unknown: Vec<i64>,
}

/// One wave of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWave {
    /// The selector as text.
    pub selector: String,
    /// The hosts, in order of precedence. The rollout would skip a wave without hosts.
    pub hosts: Vec<i64>,
}

/// Plans a rollout over `hosts`, which are all hosts of the configuration. No host may have a part
/// in a rollout yet.
pub fn plan(policy: &Policy, hosts: &[Host]) -> Plan {
    // A plan does not wait for hosts, so the time does not matter.
    let census = Census::new(policy, hosts, Timestamp::MAX);
    let mut remaining = census.candidates.clone();
    let mut waves = Vec::new();
    for selector in policy.waves.selectors() {
        let taken: Vec<i64> =
            pick(selector, &remaining, census.counting).iter().map(|host| host.id).collect();
        let is_taken: HashSet<i64> = taken.iter().copied().collect();
        remaining.retain(|host| !is_taken.contains(&host.id));
        waves.push(PlannedWave { selector: selector.to_string(), hosts: taken });
    }
    let named = named(policy);
    let ids = |is_listed: &dyn Fn(&Host) -> bool| -> Vec<i64> {
        hosts.iter().filter(|host| is_listed(host)).map(|host| host.id).collect()
    };
    Plan {
        waves,
        counting: census.counting,
        budget: budget(policy, &census, hosts),
        halt: too_many_absent(policy, &census),
        absent: ids(&|host| counts(host, policy, &named) && host.away_since.is_some()),
        held: ids(&|host| host.held),
        duplicate: ids(&|host| !host.held && host.duplicate),
        unknown: ids(&|host| !host.held && !host.duplicate && !is_admitted(host, policy, &named)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_rollout::{host, policy};

    #[test]
    fn plan_lists_the_hosts_of_each_wave_and_the_hosts_left_out() {
        let mut hosts: Vec<Host> = (1..=45).map(host).collect();
        hosts[0].group = "canary".to_owned();
        hosts[1].group = "canary".to_owned();
        hosts[2].away_since = Some(Timestamp::UNIX_EPOCH);
        hosts[3].held = true;
        hosts[4].duplicate = true;
        hosts[5].unknown = true;
        hosts[6].unknown = true;
        let plan = plan(&policy("canary,@h7,5%,25%"), &hosts);
        let sizes: Vec<(&str, usize)> =
            plan.waves.iter().map(|wave| (wave.selector.as_str(), wave.hosts.len())).collect();
        // 42 hosts count. 5% of 42 is 2.1, and 25% of 42 is 10.5.
        assert_eq!(plan.counting, 42);
        assert_eq!(sizes, [("canary", 2), ("@h7", 1), ("5%", 2), ("25%", 10), ("100%", 26)]);
        assert_eq!((plan.absent, plan.held), (vec![3], vec![4]));
        assert_eq!((plan.duplicate, plan.unknown), (vec![5], vec![6]));
        assert_eq!((plan.budget, plan.halt), (1, None));
    }

    #[test]
    fn plan_says_that_too_many_hosts_are_absent() {
        let mut hosts: Vec<Host> = (1..=9).map(host).collect();
        hosts[0].away_since = Some(Timestamp::UNIX_EPOCH);
        let why = "1 of 9 hosts absent; at most 10% may be absent";
        assert_eq!(plan(&policy("100%"), &hosts).halt.unwrap(), why);
    }

    #[test]
    fn percentage_takes_at_least_one_host() {
        let hosts: Vec<Host> = (1..=3).map(host).collect();
        let waves = plan(&policy("1%,33%"), &hosts).waves;
        let sizes: Vec<usize> = waves.iter().map(|wave| wave.hosts.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }
}
