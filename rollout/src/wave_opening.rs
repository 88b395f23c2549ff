//! Opens the next wave, or ends the rollout after the last one.

use jiff::Timestamp;

use crate::census::{Census, pick};
use crate::duration_words::after;
use crate::policy::Policy;
use crate::rollout_change::{Change, Taken};
use crate::rollout_host::{Host, Standing, count, failed};
use crate::rollout_state::Rollout;

/// The changes after a wave has ended. Either the next wave opens or waits for hosts to connect, or
/// the rollout ends or halts.
pub(crate) fn open_next(rollout: &Rollout, hosts: &[Host], now: Timestamp) -> Vec<Change> {
    let policy = &rollout.policy;
    let wave = rollout.wave + 1;
    let Some(selector) = policy.waves.selector(wave) else {
        return vec![end(hosts)];
    };
    let census = Census::new(policy, hosts, now);
    if census.counting == 0 && rollout.wave == 0 || hosts.is_empty() {
        return vec![end(hosts)];
    }
    let has_waited =
        rollout.waiting_since.is_some_and(|since| now >= after(since, policy.reconnect));
    let wait = || match rollout.waiting_since {
        Some(_) => Vec::new(),
        None => vec![Change::AwaitHosts],
    };
    if let Some(why) = too_many_absent(policy, &census) {
        // A wait would not help if too many hosts have been away for a long time.
        let is_hopeless = census.long_absent > policy.max_absent.of(census.counting);
        return if has_waited || is_hopeless { vec![Change::Halt { why }] } else { wait() };
    }
    let picked = pick(selector, &census.candidates, census.counting);
    if picked.is_empty() && !has_waited && census.may_return(selector, policy, now) {
        return wait();
    }
    let taken =
        |host: &&Host| Taken { host: host.id, repair: host.standing == Standing::BaseUnhealthy };
    let hosts_taken = picked.iter().map(taken).collect();
    vec![Change::OpenWave { wave, hosts: hosts_taken, budget: budget(policy, &census, hosts) }]
}

/// The number of hosts that may fail. At least the number of hosts that have failed already.
pub(crate) fn budget(policy: &Policy, census: &Census, hosts: &[Host]) -> u64 {
    policy.max_failed.of(census.counting).max(failed(hosts))
}

/// The reason to halt the rollout if too many hosts are absent; `None` otherwise.
pub(crate) fn too_many_absent(policy: &Policy, census: &Census) -> Option<String> {
    let Census { counting, absent, vanished, .. } = census;
    if *absent <= policy.max_absent.of(*counting) {
        return None;
    }
    let vanished = match vanished {
        0 => String::new(),
        _ => format!(" ({vanished} of them after they had deployed the target)"),
    };
    let most = policy.max_absent;
    Some(format!("{absent} of {counting} hosts absent{vanished}; at most {most} may be absent"))
}

/// The change that ends or halts a rollout after its last wave. If no host is good, nothing shows
/// that the target works. So in this case, the target must not become the current state.
fn end(hosts: &[Host]) -> Change {
    if hosts.is_empty() || hosts.iter().any(Host::is_good) {
        return Change::Succeed;
    }
    let held = count(hosts, |host| host.held);
    let failed = count(hosts, Host::has_failed);
    let duplicate = count(hosts, |host| !host.held && host.duplicate);
    let is_free = |host: &Host| host.member.is_none() && !host.held && !host.duplicate;
    let absent = count(hosts, |host| is_free(host) && host.away_since.is_some());
    let unknown = count(hosts, |host| is_free(host) && host.away_since.is_none() && host.unknown);
    let parts: Vec<String> = [
        (failed, "failed"),
        (absent, "absent"),
        (held, "held"),
        (duplicate, "duplicate"),
        (unknown, "unknown"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, kind)| format!("{number} {kind}"))
    .collect();
    let why = format!("no host is healthy on the target: {}", parts.join(", "));
    Change::Halt { why }
}
