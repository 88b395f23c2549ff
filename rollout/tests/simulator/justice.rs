//! Judges one change by the state before the change: decides whether the rules allow this change
//! now.

use deploy_rollout::{
    Change, Failure, Host, Member, Outcome, Policy, Rollout, Standing, Status, Taken,
};
use std::time::Duration;

use crate::agent::MINUTE;
use crate::judge::{Judge, is_healthy};
use crate::sizes;
use crate::world::timestamp;

/// The verdict on a change. An error says what is wrong with the change.
type Verdict = Result<(), String>;

fn require(is_right: bool, wrong: &str) -> Verdict {
    if is_right { Ok(()) } else { Err(wrong.to_owned()) }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

/// The longest time until a rollout is decided, if only its own hosts cause events. Each wave may
/// wait for hosts, for results and for its soak. Two more minutes for each wave cover the driver's
/// delay, and the time until flapping hosts connect again. With a daily maintenance window, a host
/// may have to wait a day until it can use the rest of its deadline.
pub fn bound(policy: &Policy, has_window: bool) -> u64 {
    let closed = if has_window { 24 * 60 * MINUTE } else { 0 };
    let soak = policy.soak + policy.soak.max(policy.lost_after);
    let wave = policy.wave_timeout + soak + policy.reconnect * 3;
    milliseconds(policy.pause_limit)
        + u64::from(policy.waves.count()) * (milliseconds(wave) + 2 * MINUTE + closed)
}

/// A change to judge, and the state before the change.
struct Case<'a> {
    judge: &'a Judge,
    rollout: &'a Rollout,
    hosts: &'a [Host],
    clock: u64,
}

pub fn check(
    judge: &Judge,
    change: &Change,
    rollout: &Rollout,
    hosts: &[Host],
    clock: u64,
) -> Verdict {
    let case = Case { judge, rollout, hosts, clock };
    let is_running = rollout.status == Status::Running;
    match change {
        Change::OpenWave { wave, hosts: taken, budget } => {
            require(is_running, "a wave opens while the rollout does not run")?;
            case.wave_ended()?;
            case.opens(*wave, taken, *budget)
        }
        Change::AwaitHosts => {
            require(is_running, "waits while the rollout does not run")?;
            let is_away = |host: &Host| sizes::counts(host, &rollout.policy) && is_away(host);
            require(sizes::number(hosts, is_away) > 0, "waits for hosts although no host is away")
        }
        Change::BeginSoak => require(is_running && !case.is_pending(), "soaks too early"),
        Change::Succeed => {
            require(is_running, "succeeds while the rollout does not run")?;
            case.wave_ended()?;
            let is_last = rollout.wave == rollout.policy.waves.count();
            require(hosts.is_empty() || is_last, "succeeds before the last wave")?;
            require(hosts.is_empty() || case.good(|_| true) > 0, "succeeds without a good host")
        }
        Change::Halt { .. } => case.halts(),
        Change::Pause { why } => {
            let is_duplicate = |host: &Host| {
                host.duplicate && member(host).is_some_and(|it| it.wave == rollout.wave)
            };
            let is_right = why == "operator" || sizes::number(hosts, is_duplicate) > 0;
            require(is_running && is_right, "pauses without a reason")
        }
        Change::Good { host } => {
            let host = case.host(*host);
            require(host.is_none_or(|host| is_healthy(host, rollout)), "is not healthy")
        }
        Change::Fail { host, failure } => match case.host(*host) {
            Some(host) => case.fails(host, failure),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn is_away(host: &Host) -> bool {
    host.away_since.is_some()
}

/// The host's part in the rollout, if the host counts.
fn member(host: &Host) -> Option<&Member> {
    host.member.as_ref().filter(|_| !host.held)
}

impl Case<'_> {
    fn host(&self, id: i64) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    fn good(&self, is_counted: impl Fn(&Member) -> bool) -> u64 {
        sizes::number(self.hosts, |host| {
            member(host).is_some_and(|it| it.result == Some(Outcome::Good) && is_counted(it))
        })
    }

    fn is_pending(&self) -> bool {
        self.hosts.iter().filter_map(member).any(|member| member.result.is_none())
    }

    /// The hosts of the open wave.
    fn wave(&self) -> impl Iterator<Item = (&Host, &Member)> {
        self.hosts
            .iter()
            .filter_map(|host| member(host).map(|member| (host, member)))
            .filter(|(_, member)| member.wave == self.rollout.wave)
    }

    fn lacks_good(&self) -> bool {
        let wave = self.rollout.wave;
        self.good(|member| member.wave == wave) == 0 && self.wave().any(|(_, it)| !it.repaired)
    }

    /// Requires that the open wave has ended: each host has a result, all good hosts have soaked,
    /// and at least one host is good or all hosts were unhealthy before the offer.
    fn wave_ended(&self) -> Verdict {
        require(!self.is_pending(), "a host has no result yet")?;
        require(!self.lacks_good(), "no host of the wave is good")?;
        if self.judge.is_skipped || self.wave().next().is_none() {
            return Ok(());
        }
        let soak = milliseconds(self.rollout.policy.soak);
        let began = self.judge.soak_began.ok_or("no soak began")?.max(self.judge.resumed);
        require(self.clock >= began + soak, "the soak was too short")?;
        for (host, member) in self.wave() {
            if member.result != Some(Outcome::Good) || member.marked {
                continue;
            }
            require(!is_away(host), "a good host is away")?;
            require(is_healthy(host, self.rollout), "a good host is not healthy")?;
            let since = self.judge.healthy_since(host.id).ok_or("a good host was never healthy")?;
            require(self.clock >= since + soak, "a good host was not healthy during the soak")?;
        }
        Ok(())
    }

    fn opens(&self, wave: u32, taken: &[Taken], budget: u64) -> Verdict {
        let policy = &self.rollout.policy;
        let selector = policy.waves.selector(wave).ok_or("there is no such wave")?;
        let counting = sizes::number(self.hosts, |host| sizes::counts(host, policy));
        require(wave == self.rollout.wave + 1, "the wave is not the next one")?;
        let absent = sizes::absent(self.hosts, policy, |_| true);
        require(absent <= sizes::limit(policy.max_absent, counting), "too many are absent")?;
        let failures = sizes::failures(self.hosts);
        let allowed = sizes::limit(policy.max_failed, counting).max(failures);
        require(budget == allowed, "the budget is wrong")?;
        let is_free = |host: &Host| {
            sizes::counts(host, policy)
                && !is_away(host)
                && host.member.is_none()
                && sizes::selects(selector, host)
        };
        let free = sizes::number(self.hosts, is_free);
        let size = free.min(sizes::most(selector, counting));
        require(taken.len() as u64 == size, "the size of the wave is wrong")?;
        let mut was_repair = true;
        for it in taken {
            let host = self.host(it.host).ok_or("a host does not exist")?;
            require(is_free(host), "a host cannot be taken")?;
            let is_repair = host.standing == Standing::BaseUnhealthy;
            require(it.repair == is_repair, "the wrong hosts are marked as repairs")?;
            require(was_repair || !is_repair, "a repair does not come first")?;
            was_repair = is_repair;
        }
        Ok(())
    }

    fn halts(&self) -> Verdict {
        let policy = &self.rollout.policy;
        let is_running = self.rollout.status == Status::Running;
        let is_paused = matches!(self.rollout.status, Status::Paused { .. });
        require(is_running || is_paused, "halts once more")?;
        let paused = self.now().duration_since(self.rollout.status_since);
        let is_over_pause =
            is_paused && paused.unsigned_abs() >= policy.pause_limit && paused.is_positive();
        let counting = sizes::number(self.hosts, |host| sizes::counts(host, policy));
        let absent = |away: Duration| {
            let is_counted = |host: &Host| {
                let is_long = |since| self.now().duration_since(since).unsigned_abs() >= away;
                host.away_since.is_some_and(is_long)
            };
            sizes::absent(self.hosts, policy, is_counted)
                > sizes::limit(policy.max_absent, counting)
        };
        let has_waited =
            self.rollout.waiting_since.is_some_and(|it| it + policy.reconnect <= self.now());
        let is_right = sizes::failures(self.hosts) > self.rollout.budget
            || is_over_pause
            || is_running && !self.is_pending() && self.lacks_good()
            || is_running && self.good(|_| true) == 0
            || is_running && has_waited && absent(Duration::ZERO)
            || is_running && absent(policy.reconnect);
        require(is_right, "halts without a reason")
    }

    fn now(&self) -> jiff::Timestamp {
        timestamp(self.clock)
    }

    fn fails(&self, host: &Host, failure: &Failure) -> Verdict {
        let policy = &self.rollout.policy;
        let member = member(host).ok_or("is not a member")?;
        let window = self.judge.window.filter(|_| host.windows.is_some());
        let window = window.filter(|_| member.result.is_none());
        let is_over = |since: jiff::Timestamp, time: Duration| match window {
            None => since + time <= self.now(),
            Some(window) => {
                let since = since.max(member.offered).duration_since(timestamp(0)).as_millis();
                let since = u64::try_from(since).unwrap();
                window.open_between(since, self.clock) >= milliseconds(time)
            }
        };
        let is_right = match failure {
            Failure::Reported(_) | Failure::TurnedUnhealthy(_) => {
                return require(
                    matches!(host.standing, Standing::Failed(_)),
                    "has not reported a failure",
                );
            }
            Failure::Lost(_) => host.away_since.is_some_and(|it| is_over(it, policy.lost_after)),
            Failure::NoResult(_) => {
                member.result.is_none() && is_over(member.offered, policy.wave_timeout)
            }
            Failure::Unsteady => self
                .judge
                .soak_began
                .is_some_and(|began| is_over(timestamp(began), policy.soak + policy.lost_after)),
            Failure::Marked => true,
        };
        require(
            self.rollout.status == Status::Running,
            "misses a deadline while no deadline counts",
        )?;
        require(is_right, "fails too early")?;
        let start = timestamp(self.judge.resumed);
        let time = policy.lost_after.min(policy.wave_timeout);
        require(is_over(start, time), "fails too soon after a resume")
    }
}
