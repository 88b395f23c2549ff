//! Decides the results of the hosts to which the rollout has offered the target.

use jiff::Timestamp;

use crate::deadlines::Deadlines;
use crate::failure::Failure;
use crate::rollout_change::Change;
use crate::rollout_host::{Host, Member, Outcome, Standing};
use crate::rollout_state::{Rollout, Status};
use crate::soak::ready_at;

/// The new results of all hosts, as changes. The reports of hosts always count. Deadlines count
/// only while the rollout is running, because an operator may work on a host while the rollout is
/// paused or halted.
pub(crate) fn new_results(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Vec<Change> {
    let deadlines = Deadlines::new(rollout);
    let change = |host: &Host| {
        let member = host.member.as_ref()?;
        if host.held {
            return (!member.left).then_some(Change::Leave { host: host.id });
        }
        if member.left {
            return Some(Change::Return { host: host.id });
        }
        if member.marked {
            return None;
        }
        match member.result {
            Some(Outcome::Failed(_)) => None,
            Some(Outcome::Good) => later_change(&deadlines, host, member, now),
            None => first_result(&deadlines, host, member, now),
        }
    };
    hosts.iter().filter_map(change).collect()
}

fn first_result(
    deadlines: &Deadlines,
    host: &Host,
    member: &Member,
    now: Timestamp,
) -> Option<Change> {
    let rollout = deadlines.rollout;
    if let Standing::Failed(text) = &host.standing {
        return Some(fail(host, Failure::Reported(text.clone())));
    }
    if host.is_healthy(&rollout.policy) {
        return Some(Change::Good { host: host.id });
    }
    if rollout.status != Status::Running {
        return None;
    }
    let lost = lost(deadlines, host, member, now);
    if lost.is_none() && now >= deadlines.no_result_at(host, member) {
        return Some(fail(host, Failure::NoResult(rollout.policy.wave_timeout)));
    }
    lost
}

/// The change of a host whose result is good. If the host belongs to an earlier wave, only a
/// failure that the host reports counts.
fn later_change(
    deadlines: &Deadlines,
    host: &Host,
    member: &Member,
    now: Timestamp,
) -> Option<Change> {
    let rollout = deadlines.rollout;
    if let Standing::Failed(text) = &host.standing {
        return Some(fail(host, Failure::TurnedUnhealthy(text.clone())));
    }
    if member.wave != rollout.wave {
        return None;
    }
    match (host.is_healthy(&rollout.policy), member.healthy_since) {
        (true, None) => return Some(Change::Healthy { host: host.id }),
        (false, Some(_)) => return Some(Change::NotHealthy { host: host.id }),
        _ => {}
    }
    if rollout.status != Status::Running || rollout.soak_skipped {
        return None;
    }
    let is_ready = ready_at(rollout, host, member).is_some_and(|at| now >= at);
    if !is_ready && deadlines.unsteady_at(host).is_some_and(|at| now >= at) {
        return Some(fail(host, Failure::Unsteady));
    }
    lost(deadlines, host, member, now)
}

fn lost(deadlines: &Deadlines, host: &Host, member: &Member, now: Timestamp) -> Option<Change> {
    let at = deadlines.lost_at(host, member)?;
    (now >= at).then(|| fail(host, Failure::Lost(deadlines.rollout.policy.lost_after)))
}

fn fail(host: &Host, failure: Failure) -> Change {
    Change::Fail { host: host.id, failure }
}
