//! Computes one step of a rollout. A step states the changes that the registry must write now, and
//! the time of the next step.

use jiff::Timestamp;

use crate::deadlines::Deadlines;
use crate::duration_words::{after, hosts_in_words, in_words};
use crate::results::new_results;
use crate::rollout_change::{Change, apply_all};
use crate::rollout_host::{Host, failed};
use crate::rollout_state::{Rollout, Status};
use crate::soak;
use crate::wave_opening::open_next;

/// The work of the registry in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The changes to write, in this order, as one transaction. The list is often empty.
    pub changes: Vec<Change>,
    /// The time at which the next step is due, which is always later than now. If a host changes or
    /// an operator gives a command, a step is due earlier. `None` if the rollout has halted or
    /// ended.
    pub next: Option<Timestamp>,
}

/// Decides the current step of the rollout.
///
/// If the caller applies the changes and makes a second step with the same time, the second step
/// has no changes. If the changes are lost, the next step decides again.
pub fn step(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Step {
    let first = round(rollout, hosts, now);
    if first.is_empty() {
        return Step { changes: first, next: next_look(rollout, hosts, now) };
    }
    let (mut rollout, mut hosts) = (rollout.clone(), hosts.to_vec());
    let mut changes = Vec::new();
    let mut more = first;
    while !more.is_empty() {
        apply_all(&mut rollout, &mut hosts, &more, now);
        changes.append(&mut more);
        more = round(&rollout, &hosts, now);
    }
    Step { changes, next: next_look(&rollout, &hosts, now) }
}

/// The changes that follow directly from this state. After these changes, further changes may
/// follow.
fn round(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Vec<Change> {
    if rollout.status.is_final() {
        return Vec::new();
    }
    let results = new_results(rollout, hosts, now);
    if !results.is_empty() {
        return results;
    }
    match rollout.status {
        Status::Running => halt_for_failures(rollout, hosts)
            .or_else(|| pause_for_duplicates(rollout, hosts))
            .map_or_else(|| proceed(rollout, hosts, now), |change| vec![change]),
        Status::Paused { .. } => {
            let limit = rollout.policy.pause_limit;
            let is_over = now >= after(rollout.status_since, limit);
            let why = format!("paused for {}", in_words(limit));
            halt_for_failures(rollout, hosts)
                .or_else(|| is_over.then_some(Change::Halt { why }))
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

fn halt_for_failures(rollout: &Rollout, hosts: &[Host]) -> Option<Change> {
    let (failed, budget) = (failed(hosts), rollout.budget);
    if failed <= budget {
        return None;
    }
    let names = names(hosts.iter().filter(|host| host.spends_budget()));
    let failed = hosts_in_words(failed);
    Some(Change::Halt { why: format!("{failed} failed: {names}; at most {budget} may fail") })
}

fn pause_for_duplicates(rollout: &Rollout, hosts: &[Host]) -> Option<Change> {
    let is_member = |host: &&Host| {
        host.counted_member().is_some_and(|member| member.wave == rollout.wave) && host.duplicate
    };
    let names = names(hosts.iter().filter(is_member));
    let why = format!("more than one agent uses the name of a host: {names}");
    (!names.is_empty()).then_some(Change::Pause { why })
}

/// The names of at most five hosts, and the number of the other hosts, for a message.
fn names<'a>(hosts: impl Iterator<Item = &'a Host>) -> String {
    const MOST: usize = 5;
    let mut names: Vec<&str> = hosts.map(|host| host.name.as_str()).collect();
    names.sort_unstable();
    match names.len() {
        0..=MOST => names.join(", "),
        all => format!("{} and {} more", names[..MOST].join(", "), all - MOST),
    }
}

/// The changes of a running rollout if no host has a new result.
fn proceed(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Vec<Change> {
    let members = || hosts.iter().filter_map(Host::counted_member);
    if members().any(|member| member.result.is_none()) {
        return Vec::new();
    }
    let wave = || members().filter(|member| member.wave == rollout.wave);
    let count = wave().count();
    if count == 0 {
        return open_next(rollout, hosts, now);
    }
    let is_without_good = soak::good_members(rollout, hosts).next().is_none();
    if is_without_good && wave().any(|member| !member.repaired) {
        let number = rollout.wave;
        let why = format!("no host of wave {number} is healthy on the target: {count} failed");
        return vec![Change::Halt { why }];
    }
    if rollout.soaking_since.is_none() {
        return vec![Change::BeginSoak];
    }
    if soak::is_over(rollout, hosts, now) { open_next(rollout, hosts, now) } else { Vec::new() }
}

/// The earliest time at which the rollout may change even if no host changes.
fn next_look(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Option<Timestamp> {
    match rollout.status {
        Status::Paused { .. } => Some(after(rollout.status_since, rollout.policy.pause_limit)),
        Status::Running => {
            let waited = rollout.waiting_since.map(|at| after(at, rollout.policy.reconnect));
            let soaked = [waited, soak::regular_end(rollout)];
            let deadlines = Deadlines::new(rollout);
            let members = hosts.iter().flat_map(|host| member_times(&deadlines, host));
            soaked.into_iter().flatten().chain(members).filter(|at| *at > now).min()
        }
        _ => None,
    }
}

/// The times at which a deadline or the soak of this host ends.
fn member_times(deadlines: &Deadlines, host: &Host) -> impl Iterator<Item = Timestamp> + use<> {
    let rollout = deadlines.rollout;
    let member = host.counted_member().filter(|member| !member.marked && !host.has_failed());
    let times = member.map(|member| {
        let is_pending = member.result.is_none();
        let is_soaking = !is_pending && member.wave == rollout.wave;
        [
            is_pending.then(|| deadlines.no_result_at(host, member)),
            (is_pending || is_soaking).then(|| deadlines.lost_at(host, member)).flatten(),
            is_soaking.then(|| soak::ready_at(rollout, host, member)).flatten(),
            is_soaking.then(|| deadlines.unsteady_at(host)).flatten(),
        ]
    });
    times.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests;
