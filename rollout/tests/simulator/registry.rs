//! Drives the rollout. Like the registry, the driver makes steps and writes their changes.

use deploy_rollout::{Change, Status, apply, step};

use crate::agent::SECOND;
use crate::events::Event;
use crate::world::{Fault, World, timestamp};

impl World {
    /// Makes a step and writes its changes, unless the driver is killed before the end.
    pub fn drive(&mut self) -> Result<(), Fault> {
        if !self.is_up || !self.is_driven {
            return Ok(());
        }
        let mut made = step(&self.rollout, &self.hosts, self.now());
        if made != step(&self.rollout, &self.hosts, self.now()) {
            return Err("two registries decide differently".to_owned());
        }
        if !made.changes.is_empty() && self.dice.per_cent(10) {
            // Another registry makes the step a little later, but writes its changes first. So the
            // catalogue refuses the changes of this registry.
            self.clock += self.dice.below(20);
            made = step(&self.rollout, &self.hosts, self.now());
        }
        let all = made.changes.len();
        let is_killed = self.kills > 0 && all > 0 && self.dice.per_cent(15);
        let written = if is_killed { self.dice.index(all + 1) } else { all };
        self.write(&made.changes[..written])?;
        if is_killed {
            self.kills -= 1;
            self.is_driven = false;
            let lasts = self.dice.below(60 * SECOND);
            self.note(format!("the driver is killed for {lasts} ms after {written} of {all}"));
            self.queue.push(self.clock + lasts, Event::Revive);
            self.judge.note_healthy(&self.hosts, &self.rollout, self.clock);
            self.disturb();
            return Ok(());
        }
        let again = step(&self.rollout, &self.hosts, self.now());
        if !again.changes.is_empty() || again.next != made.next {
            return Err(format!("a second step differs: {again:?} after {made:?}"));
        }
        self.look += 1;
        if let Some(next) = made.next {
            let late = if self.dice.per_cent(70) { 0 } else { self.dice.below(2 * SECOND) };
            let at = next.duration_since(timestamp(0)).as_millis();
            let at = u64::try_from(at).unwrap();
            if at <= self.clock {
                return Err(format!("the next look at {next} is not later than now"));
            }
            self.queue.push(at + late, Event::Look(self.look));
        } else if self.rollout.status == Status::Running {
            return Err("a running rollout has no next look".to_owned());
        }
        self.judge.full_step(&self.rollout, &self.hosts, self.clock)
    }

    /// Writes changes one by one. The judge judges the state before and after each change.
    pub fn write(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let now = self.now();
        for change in changes {
            self.note(format!("{change:?}"));
            self.judge.before(change, &self.rollout, &self.hosts, self.clock)?;
            apply(&mut self.rollout, &mut self.hosts, change, now);
            self.judge.after(change, &self.rollout, &self.hosts, self.clock)?;
        }
        Ok(())
    }
}
