//! Computes the numbers in the rules of a rollout, without the code under test.

use deploy_rollout::{Host, Limit, Outcome, Policy, Selector};

pub fn part(hundredths: u32, whole: u64) -> u64 {
    whole * u64::from(hundredths) / 10_000
}

pub fn limit(limit: Limit, hosts: u64) -> u64 {
    match limit {
        Limit::Count(count) => count,
        Limit::Percent(share) => part(share.0, hosts),
        Limit::Larger(count, share) => count.max(part(share.0, hosts)),
    }
}

pub fn selects(selector: &Selector, host: &Host) -> bool {
    match selector {
        Selector::Group(group) => host.group == group.as_str(),
        Selector::Hosts(names) => names.contains(&host.name),
        Selector::Count(_) | Selector::Percent(_) => true,
    }
}

pub fn most(selector: &Selector, hosts: u64) -> u64 {
    match selector {
        Selector::Count(count) => *count,
        Selector::Percent(share) if share.0 < 10_000 => part(share.0, hosts).max(1),
        _ => u64::MAX,
    }
}

pub fn counts(host: &Host, policy: &Policy) -> bool {
    let is_named = || {
        let mut selectors = policy.waves.selectors().iter();
        selectors.any(|it| matches!(it, Selector::Hosts(names) if names.contains(&host.name)))
    };
    let is_known = !host.unknown || policy.allow_unknown || host.member.is_some() || is_named();
    !host.held && !host.duplicate && is_known
}

pub fn number(hosts: &[Host], is_counted: impl Fn(&Host) -> bool) -> u64 {
    hosts.iter().filter(|host| is_counted(host)).count() as u64
}

/// The number of failed hosts that spend the budget.
pub fn failures(hosts: &[Host]) -> u64 {
    number(hosts, |host| {
        host.member.as_ref().is_some_and(|member| {
            matches!(member.result, Some(Outcome::Failed(_))) && !member.repaired && !host.held
        })
    })
}

/// The number of absent hosts for which `is_counted` returns true.
pub fn absent(hosts: &[Host], policy: &Policy, is_counted: impl Fn(&Host) -> bool) -> u64 {
    number(hosts, |host| {
        let result = host.member.as_ref().and_then(|member| member.result.as_ref());
        let has_failed = matches!(result, Some(Outcome::Failed(_)));
        counts(host, policy) && host.away_since.is_some() && !has_failed && is_counted(host)
    })
}
