//! The deadlines of hosts that the rollout has offered the target.

use jiff::Timestamp;

use crate::duration_words::after;
use crate::rollout_host::{Host, Member};
use crate::rollout_state::Rollout;
use crate::soak;

/// When the host's deadlines began: at the offer, or at a resume after the offer.
fn start(rollout: &Rollout, member: &Member) -> Timestamp {
    member.offered.max(rollout.status_since)
}

/// When the host has failed because it has no result.
pub(crate) fn no_result_at(rollout: &Rollout, host: &Host, member: &Member) -> Timestamp {
    let deadline = after(start(rollout, member), rollout.policy.wave_timeout);
    heard(rollout, host, deadline)
}

/// When the host is lost, if it is away.
pub(crate) fn lost_at(rollout: &Rollout, host: &Host, member: &Member) -> Option<Timestamp> {
    let away = host.away_since?.max(start(rollout, member));
    Some(after(away, rollout.policy.lost_after))
}

/// When a good host of the open wave has failed because it is not ready. None before the soak.
pub(crate) fn unsteady_at(rollout: &Rollout, host: &Host) -> Option<Timestamp> {
    soak::latest_end(rollout).map(|deadline| heard(rollout, host, deadline))
}

/// The deadline of a host from which the registry has to hear. After a time without the registry,
/// all deadlines may be over, while the results of the hosts are still on their way. So a host that
/// has just disconnected has time to connect again.
fn heard(rollout: &Rollout, host: &Host, deadline: Timestamp) -> Timestamp {
    match host.away_since {
        Some(since) => deadline.max(after(since, rollout.policy.reconnect)),
        None => deadline,
    }
}
