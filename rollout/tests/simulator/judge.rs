//! Judges each change and each state of a rollout. The judge has its own code for the rules.

use std::collections::{BTreeMap, BTreeSet};

use deploy_rollout::{
    Change, Host, Member, Outcome, Rollout, Standing, Status, Taken, shows_target, step,
};

use crate::daily_window::DailyWindow;
use crate::justice;
use crate::sizes;
use crate::world::{Fault, World, timestamp};

/// The judge, and the facts that it remembers between two changes.
pub struct Judge {
    /// The time of the last disturbance, such as an operator's command, a restart or a kill.
    pub disturbed: u64,
    /// The hosts that waves have taken.
    taken: BTreeSet<i64>,
    /// The hosts to which the rollout offered the target after the last change.
    shown: BTreeSet<i64>,
    /// The time since which each host has been healthy, as the driver sees it.
    healthy: BTreeMap<i64, u64>,
    /// The time at which the soak of the open wave last began.
    pub soak_began: Option<u64>,
    /// The time at which the rollout was last resumed.
    pub resumed: u64,
    /// Whether an operator ended the soak of the open wave.
    pub is_skipped: bool,
    /// The maximum number of failures with which the rollout may still run.
    budget: u64,
    was_running: bool,
    /// The maintenance window of the group `web`.
    pub window: Option<DailyWindow>,
}

pub fn is_healthy(host: &Host, rollout: &Rollout) -> bool {
    host.standing == Standing::Healthy
        || host.standing == Standing::Working && host.unknown && rollout.policy.allow_unknown
}

fn shown(rollout: &Rollout, hosts: &[Host]) -> BTreeSet<i64> {
    let is_shown = |host: &&Host| shows_target(rollout, host.member.as_ref());
    hosts.iter().filter(is_shown).map(|host| host.id).collect()
}

impl Judge {
    pub fn new(rollout: &Rollout, window: Option<DailyWindow>) -> Self {
        Self {
            disturbed: 0,
            taken: BTreeSet::new(),
            shown: BTreeSet::new(),
            healthy: BTreeMap::new(),
            soak_began: None,
            resumed: 0,
            is_skipped: false,
            budget: 0,
            was_running: rollout.status == Status::Running,
            window,
        }
    }

    /// The time since which the host has been healthy.
    pub fn healthy_since(&self, id: i64) -> Option<u64> {
        self.healthy.get(&id).copied()
    }

    /// Judges a change by the state before the change.
    pub fn before(
        &mut self,
        change: &Change,
        rollout: &Rollout,
        hosts: &[Host],
        clock: u64,
    ) -> Result<(), Fault> {
        if rollout.status.is_final() {
            return Err(format!("{change:?} after the end"));
        }
        self.note_healthy(hosts, rollout, clock);
        justice::check(self, change, rollout, hosts, clock)
            .map_err(|fault| format!("{fault}: {change:?}"))
    }

    /// Judges the state after a change.
    pub fn after(
        &mut self,
        change: &Change,
        rollout: &Rollout,
        hosts: &[Host],
        clock: u64,
    ) -> Result<(), Fault> {
        match change {
            Change::OpenWave { wave, hosts: taken, budget } => {
                self.taken.extend(taken.iter().map(|it| it.host));
                let offered = timestamp(clock);
                let is_made = |it: &Taken| {
                    let host = hosts.iter().find(|host| host.id == it.host);
                    let member = Some(Member::new(*wave, offered, it.repair));
                    host.is_some_and(|host| host.member == member)
                };
                if !taken.iter().all(is_made) {
                    return Err("a host that the wave took did not become a member".to_owned());
                }
                (self.soak_began, self.is_skipped, self.budget) = (None, false, *budget);
            }
            Change::BeginSoak => self.soak_began = Some(clock),
            Change::SkipSoak => self.is_skipped = true,
            Change::Retry { .. } | Change::Return { .. } => {
                (self.soak_began, self.is_skipped) = (None, false);
            }
            Change::Resume { budget, .. } => (self.resumed, self.budget) = (clock, *budget),
            _ => {}
        }
        let shown = shown(rollout, hosts);
        if let Some(id) = shown.difference(&self.taken).next() {
            return Err(format!("host {id} is shown the target, although no wave took it"));
        }
        let news = shown.difference(&self.shown).count();
        if news > 0 && !(self.was_running && matches!(change, Change::OpenWave { .. })) {
            return Err(format!("{news} hosts are newly shown the target by {change:?}"));
        }
        if matches!(rollout.status, Status::Aborted | Status::Superseded) && !shown.is_empty() {
            return Err(format!("{} hosts are shown the target after the end", shown.len()));
        }
        self.shown = shown;
        self.was_running = rollout.status == Status::Running;
        Ok(())
    }

    /// Judges the state after all changes of a step.
    pub fn full_step(
        &mut self,
        rollout: &Rollout,
        hosts: &[Host],
        clock: u64,
    ) -> Result<(), Fault> {
        self.note_healthy(hosts, rollout, clock);
        self.healthy.retain(|id, _| {
            let place = hosts.binary_search_by_key(id, |host| host.id);
            place.is_ok_and(|place| is_healthy(&hosts[place], rollout))
        });
        let failures = sizes::failures(hosts);
        let is_running = rollout.status == Status::Running;
        if is_running && rollout.wave > 0 && failures > self.budget {
            return Err(format!(
                "the rollout runs with {failures} failures; the budget is {}",
                self.budget
            ));
        }
        if rollout.status.is_final() {
            return Ok(());
        }
        for host in hosts {
            let Some(member) = host.member.as_ref().filter(|_| !host.held) else { continue };
            let has_failed = matches!(member.result, Some(Outcome::Failed(_)));
            let is_ignored = match host.standing {
                Standing::Failed(_) => !has_failed,
                _ => is_healthy(host, rollout) && member.result.is_none(),
            };
            if is_ignored && !member.marked {
                return Err(format!("the report of host {} is ignored", host.id));
            }
            if is_running && host.duplicate && member.wave == rollout.wave {
                return Err(format!("the rollout runs, and host {} is duplicate", host.id));
            }
        }
        Ok(())
    }

    /// Remembers the hosts that have become healthy.
    pub fn note_healthy(&mut self, hosts: &[Host], rollout: &Rollout, clock: u64) {
        for host in hosts.iter().filter(|host| is_healthy(host, rollout)) {
            self.healthy.entry(host.id).or_insert(clock);
        }
    }

    /// Whether the rollout is decided. If the rollout is still undecided too long after the last
    /// disturbance, the result is a fault.
    pub fn is_over(&self, world: &World) -> Result<bool, Fault> {
        let is_halted = matches!(world.rollout.status, Status::Halted { .. });
        if world.rollout.status.is_final() || is_halted {
            // After a halt, an operator may still resume.
            return Ok(!is_halted || world.operations == 0);
        }
        let bound = justice::bound(&world.rollout.policy, self.window.is_some());
        if world.is_up && world.clock > self.disturbed + bound {
            let (since, status) = (world.clock - self.disturbed, &world.rollout.status);
            return Err(format!("{status:?} after {since} ms; the bound is {bound} ms"));
        }
        Ok(false)
    }

    /// Judges the state after the end.
    pub fn verdict(world: &World) -> Result<(), Fault> {
        let status = &world.rollout.status;
        let after = step(&world.rollout, &world.hosts, world.now());
        if status.is_final() && (!after.changes.is_empty() || after.next.is_some()) {
            return Err(format!("{after:?} after the end"));
        }
        if matches!(status, Status::Aborted | Status::Superseded) {
            let is_wrong = |host: &&Host| {
                let agent = &world.agents[&host.id];
                agent.connected && !host.held && agent.shown
            };
            if let Some(host) = world.hosts.iter().find(is_wrong) {
                return Err(format!("host {} is still offered the target after the end", host.id));
            }
        }
        if world.is_calm && *status != Status::Succeeded {
            return Err(format!("a fleet of healthy hosts ended with {status:?}"));
        }
        Ok(())
    }
}
