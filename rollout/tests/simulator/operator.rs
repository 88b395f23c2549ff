//! Simulates an operator who gives random commands.

use deploy_rollout::{Change, Command, Limit, Standing, command, step};

use crate::agent::{Kind, MINUTE, SECOND};
use crate::events::Event;
use crate::world::{Fault, World};

impl World {
    /// Gives a random command or changes a random host, if the registry and its driver run.
    pub fn operate(&mut self) -> Result<(), Fault> {
        self.operations -= 1;
        self.disturb();
        if !self.is_up || !self.is_driven {
            return Ok(());
        }
        let chance = self.dice.below(100);
        match chance {
            0..20 => self.order(&Command::Pause { why: "operator".to_owned() }),
            20..45 => {
                let max_failed = self.dice.per_cent(50).then(|| Limit::Count(self.dice.below(8)));
                let max_absent = self.dice.per_cent(30).then(|| Limit::Count(self.dice.below(99)));
                self.order(&Command::Resume { max_failed, max_absent })
            }
            45..50 => self.order(&Command::Abort),
            50..54 => self.order(&Command::Supersede),
            54..62 => self.order(&Command::SkipSoak),
            _ if self.hosts.is_empty() => Ok(()),
            _ => {
                let place = self.dice.index(self.hosts.len());
                let id = self.hosts[place].id;
                self.operate_on(id, chance)
            }
        }
    }

    fn operate_on(&mut self, id: i64, chance: u64) -> Result<(), Fault> {
        let later = self.clock + self.dice.between(SECOND, 30 * MINUTE);
        let is_undone = self.dice.per_cent(60);
        match chance {
            62..70 => {
                let good = self.dice.per_cent(50);
                self.order(&Command::Mark { host: id, good })?;
            }
            70..78 => self.order(&Command::Retry { host: id })?,
            78..86 => {
                self.note(format!("host {id} is held"));
                self.host(id).unwrap().held = true;
                if is_undone {
                    self.queue.push(later, Event::Release(id));
                }
            }
            86..93 => {
                self.note(format!("host {id} is duplicate"));
                self.host(id).unwrap().duplicate = true;
                if is_undone {
                    self.queue.push(later, Event::Single(id));
                }
            }
            _ => {
                self.note(format!("host {id} is retired"));
                self.hosts.retain(|host| host.id != id);
                self.agents.remove(&id);
            }
        }
        Ok(())
    }

    /// Executes a command, unless the rollout refuses it.
    fn order(&mut self, order: &Command) -> Result<(), Fault> {
        let status = self.rollout.status.clone();
        match command(&self.rollout, &self.hosts, order, self.now()) {
            Err(refusal) => {
                self.note(format!("refused: {refusal}"));
                if *order == Command::Abort && !status.is_final() {
                    return Err(refusal.to_string());
                }
            }
            Ok(changes) => {
                self.write(&changes)?;
                if let Command::Retry { host } = order {
                    self.try_again(*host);
                }
                if matches!(order, Command::Resume { .. }) {
                    let then = step(&self.rollout, &self.hosts, self.now()).changes;
                    let stops =
                        |it: &Change| matches!(it, Change::Halt { .. } | Change::Pause { .. });
                    if then.iter().any(stops) {
                        return Err(format!("the resumed rollout stops again: {then:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Offers the target to the agent once more. This time, the agent may succeed.
    fn try_again(&mut self, id: i64) {
        let is_fine = self.dice.per_cent(50);
        let agent = self.agents.get_mut(&id).unwrap();
        if is_fine && !agent.kind.is_unknown() && !matches!(agent.kind, Kind::Flapping(..)) {
            agent.kind = Kind::Fine(SECOND);
        }
        agent.standing = Standing::Base;
        agent.shown = false;
        self.host(id).unwrap().standing = Standing::Base;
    }
}
