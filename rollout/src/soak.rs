//! Computes the soak of a wave, which is the time in which the wave's good hosts must stay healthy.

use jiff::Timestamp;

use crate::duration_words::after;
use crate::rollout_host::{Host, Member};
use crate::rollout_state::Rollout;

/// The time at which the soak began, or at which a resume restarted it. `None` before the soak.
fn start(rollout: &Rollout) -> Option<Timestamp> {
    Some(rollout.soaking_since?.max(rollout.status_since))
}

/// The time at which the soak ends if all good hosts stay connected and healthy.
pub(crate) fn regular_end(rollout: &Rollout) -> Option<Timestamp> {
    Some(after(start(rollout)?, rollout.policy.soak))
}

/// The latest time at which the soak ends. A good host fails if it is away at this time, or has not
/// been healthy for one whole soak by this time.
pub(crate) fn latest_end(rollout: &Rollout) -> Option<Timestamp> {
    let policy = &rollout.policy;
    Some(after(regular_end(rollout)?, policy.soak.max(policy.lost_after)))
}

/// The time at which the host will have been healthy for one whole soak. `None` while the host is
/// away or not healthy. If an operator has marked the host, it is ready when the soak starts.
pub(crate) fn ready_at(rollout: &Rollout, host: &Host, member: &Member) -> Option<Timestamp> {
    let start = start(rollout)?;
    if member.marked {
        return Some(start);
    }
    let is_steady = host.away_since.is_none() && host.is_healthy(&rollout.policy);
    let since = member.healthy_since.filter(|_| is_steady)?;
    Some(after(since.max(start), rollout.policy.soak))
}

/// Whether the soak of the open wave has ended. The soak ends when its regular time is over and
/// each good host of the wave has been healthy for one whole soak. An operator can end the soak
/// earlier.
pub(crate) fn is_over(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> bool {
    if rollout.soak_skipped {
        return true;
    }
    regular_end(rollout).is_some_and(|end| now >= end)
        && good_members(rollout, hosts)
            .all(|(host, member)| ready_at(rollout, host, member).is_some_and(|at| now >= at))
}

/// The good hosts of the open wave.
pub(crate) fn good_members<'a>(
    rollout: &Rollout,
    hosts: &'a [Host],
) -> impl Iterator<Item = (&'a Host, &'a Member)> {
    let wave = rollout.wave;
    hosts
        .iter()
        .filter(|host| host.is_good())
        .filter_map(|host| host.counted_member().map(|member| (host, member)))
        .filter(move |(_, member)| member.wave == wave)
}
