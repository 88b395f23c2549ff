//! Makes the gauges of the active rollouts. The code is pure: it counts rows that the caller has
//! read.

use std::collections::{BTreeMap, HashMap};

use deploy_rollout::{Member, Outcome, Rollout, Status};

use crate::catalog::fleet::FleetSnapshot;
use crate::fleet::metrics::{Sample, float};

/// The words for the results of hosts, in the order of [`Counts::results`].
const RESULTS: [&str; 5] = ["good", "failed", "held", "open", "waiting"];

/// Returns whether a status is of a certain kind.
type IsKind = fn(&Status) -> bool;

/// The gauges of the status: the name, the help text, and the kind of status.
const STATUSES: [(&str, &str, IsKind); 3] = [
    ("rollout_active", "Whether a rollout has begun and not ended.", |_| true),
    ("rollout_halted", "Whether the active rollout has halted.", |status| {
        matches!(status, Status::Halted { .. })
    }),
    ("rollout_paused", "Whether the active rollout is paused.", |status| {
        matches!(status, Status::Paused { .. })
    }),
];

/// How many hosts of a rollout have each result.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    results: [u64; RESULTS.len()],
    /// The number of failed hosts that count against the budget.
    spent: u64,
}

/// The gauges of all configurations. Only configurations with an active rollout have gauges of
/// waves, budgets and hosts.
pub fn samples(fleet: &FleetSnapshot) -> Vec<Sample> {
    let mut names: Vec<&str> = fleet.currents.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut samples = Vec::new();
    let mut add = |name, help, labels, value: u64| {
        samples.push(Sample { name, help, labels, value: float(value) });
    };
    let label = |name: &str| vec![("configuration", name.to_owned())];
    for (name, help, is_so) in STATUSES {
        for configuration in &names {
            let rollout = fleet.rollouts.get(*configuration);
            let is_so = rollout.is_some_and(|active| is_so(&active.row.rollout.status));
            add(name, help, label(configuration), u64::from(is_so));
        }
    }
    let active: BTreeMap<&str, &Rollout> =
        fleet.rollouts.iter().map(|(name, active)| (name.as_str(), &active.row.rollout)).collect();
    let counts = counts(fleet);
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    for (name, rollout) in &active {
        let help = "The number of the open wave of the active rollout.";
        add("rollout_wave", help, label(name), rollout.wave.into());
    }
    for (name, rollout) in &active {
        let waves = rollout.policy.waves.selectors().len() as u64;
        add("rollout_waves", "The number of waves of the active rollout.", label(name), waves);
    }
    for (name, rollout) in &active {
        let help = "How many hosts may fail before the active rollout halts.";
        add("rollout_budget", help, label(name), rollout.budget);
    }
    for (name, rollout) in &active {
        let help = "How many more hosts may fail before the active rollout halts.";
        let left = rollout.budget.saturating_sub(of(name).spent);
        add("rollout_budget_remaining", help, label(name), left);
    }
    for name in active.keys() {
        for (result, count) in RESULTS.into_iter().zip(of(name).results) {
            let mut labels = label(name);
            labels.push(("result", result.to_owned()));
            add("rollout_hosts", "Hosts of the active rollout, by result.", labels, count);
        }
    }
    samples
}

/// Counts the hosts of each active rollout, by the name of the configuration.
fn counts(fleet: &FleetSnapshot) -> HashMap<&str, Counts> {
    let mut all: HashMap<&str, Counts> = HashMap::new();
    for agent in &fleet.agents {
        let Some(host) = fleet.hosts.get(&agent.host) else { continue };
        let name = agent.configuration.as_str();
        let Some(rollout) = fleet.rollouts.get(name) else { continue };
        let counts = all.entry(name).or_default();
        let member = rollout.members.get(&agent.host);
        let (result, spends) = result(member, host.hold.is_some());
        counts.results[result] += 1;
        counts.spent += u64::from(spends);
    }
    all
}

/// The index of the host's result in [`RESULTS`], and whether the host counts against the budget.
fn result(member: Option<&Member>, held: bool) -> (usize, bool) {
    let Some(member) = member else { return (if held { 2 } else { 4 }, false) };
    match &member.result {
        _ if held || member.left => (2, false),
        Some(Outcome::Good) => (0, false),
        Some(Outcome::Failed(_)) => (1, !member.repaired),
        None => (3, false),
    }
}

#[cfg(test)]
mod tests {
    use deploy_rollout::Failure;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn result_depends_on_the_member_and_on_holds() {
        let member = |result| {
            let member = Member::new(1, Timestamp::UNIX_EPOCH, false);
            Some(Member { result, ..member })
        };
        let failed = member(Some(Outcome::Failed(Failure::Marked)));
        let repaired = failed.clone().map(|member| Member { repaired: true, ..member });
        let left = failed.clone().map(|member| Member { left: true, ..member });
        for (member, held, want) in [
            (member(Some(Outcome::Good)), false, ("good", false)),
            (failed.clone(), false, ("failed", true)),
            (repaired, false, ("failed", false)),
            (left, false, ("held", false)),
            (failed, true, ("held", false)),
            (member(None), false, ("open", false)),
            (None, false, ("waiting", false)),
            (None, true, ("held", false)),
        ] {
            let (index, spends) = result(member.as_ref(), held);
            assert_eq!((RESULTS[index], spends), want, "{member:?} {held}");
        }
    }
}
