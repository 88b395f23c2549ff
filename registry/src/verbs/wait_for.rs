//! The verb `wait` waits until enough hosts of a configuration have confirmed the configuration's
//! current state, or the target of its rollout.

use std::time::Duration;

use deploy_rollout::Status;
use deploy_store::{Digest, Meter, Unit};
use deploy_wire::command::Wait;
use tokio::time::{Instant, sleep, timeout_at};

use crate::catalog::fleet::{CurrentState, Scope};
use crate::catalog::rollouts::{RolloutRow, RolloutView};
use crate::error::{Error, Result};
use crate::fleet::convergence::{self, Goal, Tally, Verdict};
use crate::registry::Registry;

/// The shortest time between two checks of the fleet.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause between two checks, as a multiple of the time that a check takes.
const PAUSE_FACTOR: u32 = 4;
/// The longest time between two checks of the fleet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The goal of a wait, and the rollout that the wait follows. Each value is `None` until the wait
/// has determined the value.
#[derive(Debug, Clone, Copy, Default)]
struct Pinned {
    goal: Option<Goal>,
    /// The number of the rollout whose target the wait waits for.
    rollout: Option<u64>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Enough hosts have confirmed the goal.
    Converged,
    /// Too many hosts have failed, or the rollout was halted or aborted.
    Halted,
    /// Another state has become current, or another change has ended the rollout.
    Superseded,
    /// The time limit of the wait has passed.
    TimedOut,
}

/// The result of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// How the wait ended.
    pub ending: Ending,
    /// The number of the current state, or of the rollout's target.
    pub state: u64,
    /// The id of this state.
    pub id: Digest,
    /// The number of the change that made the state current, or that started the rollout.
    pub revision: u64,
    /// How many hosts have confirmed the goal, have failed, or are still missing.
    pub tally: Tally,
    /// The hosts that failed, by name.
    pub failed: Vec<String>,
}

impl Registry {
    /// Waits until enough hosts have confirmed the goal, or the wait ends in another way. `meter`
    /// shows how many hosts have confirmed the goal.
    pub async fn wait_for(&self, wait: &Wait, meter: &Meter) -> Result<Waited> {
        self.wait_pinned(wait, Pinned::default(), meter).await
    }

    /// Like [`Registry::wait_for`], for the target of the rollout `number`.
    pub async fn wait_for_rollout(
        &self,
        wait: &Wait,
        number: u64,
        meter: &Meter,
    ) -> Result<Waited> {
        let pinned = Pinned { rollout: Some(number), goal: None };
        self.wait_pinned(wait, pinned, meter).await
    }

    async fn wait_pinned(&self, wait: &Wait, mut goal: Pinned, meter: &Meter) -> Result<Waited> {
        let end = Instant::now() + wait.timeout.min(Duration::from_secs(365 * 24 * 60 * 60));
        let mut changes = self.catalog.changes.subscribe(&wait.name);
        let (mut written, mut stopped) = (self.fleet.written(), self.fleet.stopped());
        let mut shown = (0, 0);
        let waited = loop {
            changes.borrow_and_update();
            written.borrow_and_update();
            let began = Instant::now();
            let waited = self.look(wait, &mut goal).await?;
            // A check of a large fleet takes longer, and the pause grows accordingly. So the
            // registry has most of its time for other work.
            let pause = PAUSE.max(began.elapsed() * PAUSE_FACTOR);
            if waited.ending != Ending::TimedOut {
                break waited;
            }
            show(meter, &waited.tally, &mut shown);
            if Instant::now() >= end {
                break waited;
            }
            let next = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = written.changed() => {}
                    () = sleep(LOOK_EVERY) => {}
                }
                sleep(pause).await;
            };
            tokio::select! {
                // After the time limit, the loop checks the fleet one last time.
                _ = timeout_at(end, next) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {
                    return Err(Error::Failed("the registry is stopping; run wait again".to_owned()));
                }
            }
        };
        meter.end();
        Ok(waited)
    }

    /// Checks the fleet once. If the result is not decided yet, the ending is [`Ending::TimedOut`].
    async fn look(&self, wait: &Wait, pinned: &mut Pinned) -> Result<Waited> {
        let none = || Error::NotFound(format!("configuration \"{}\" not found", wait.name));
        let fleet = match self.awaited_rollout(wait, pinned).await? {
            Some(view) if view.row.rollout.status != Status::Succeeded => {
                return Ok(self.look_at_rollout(wait, &view, pinned));
            }
            // The rollout has made its target current. If another state is current now, a later
            // change has replaced the target.
            Some(view) => view.fleet,
            None => {
                let scope = Scope { name: Some(&wait.name), host: None };
                self.catalog.fleet_snapshot(scope).await?
            }
        };
        let current = fleet.currents.get(wait.name.as_str()).ok_or_else(none)?;
        let CurrentState { number: state, revision, id } = *current;
        let now = Goal { revision, id, min: wait.min };
        let is_other_id = wait.id.as_ref().is_some_and(|wanted| !wanted.is_of(id));
        let is_later = wait.state.is_some_and(|wanted| state > wanted);
        let is_earlier = wait.state.is_some_and(|wanted| state < wanted);
        let is_replaced = pinned.goal.as_ref().is_some_and(|goal| goal.id != id);
        let ending =
            |ending, tally, failed| Ok(Waited { ending, state, id, revision, tally, failed });
        if is_other_id || is_later || is_replaced {
            return ending(Ending::Superseded, Tally::default(), Vec::new());
        }
        if is_earlier {
            return ending(Ending::TimedOut, Tally::default(), Vec::new());
        }
        pinned.goal = Some(now);
        let (tally, failed) = self.tally(&fleet, &now, wait.group.as_ref());
        let how = match convergence::verdict(&tally) {
            Verdict::Converged => Ending::Converged,
            Verdict::Halted => Ending::Halted,
            Verdict::Waiting => Ending::TimedOut,
        };
        ending(how, tally, failed)
    }

    /// The rollout that the wait follows, if there is one. A wait that names a state or an id
    /// follows the last rollout if this rollout has the named target and has not succeeded. The
    /// rollout may have ended already. Any other wait follows the rollout that is active when the
    /// wait begins.
    async fn awaited_rollout(
        &self,
        wait: &Wait,
        pinned: &mut Pinned,
    ) -> Result<Option<RolloutView>> {
        let is_named = wait.id.is_some() || wait.state.is_some();
        if pinned.rollout.is_none() && (is_named || pinned.goal.is_none()) {
            let last = self.catalog.last_rollout(&wait.name).await?;
            let is_wanted = |row: &RolloutRow| {
                wait.id.as_ref().is_none_or(|id| id.is_of(row.target_id))
                    && wait.state.is_none_or(|state| state == row.target)
                    && if is_named {
                        row.rollout.status != Status::Succeeded
                    } else {
                        row.ended.is_none()
                    }
            };
            pinned.rollout = last.filter(is_wanted).map(|row| row.number);
        }
        match pinned.rollout {
            Some(number) => self.catalog.rollout(&wait.name, Some(number)).await,
            None => Ok(None),
        }
    }

    /// The present result of a wait for a rollout that has not succeeded.
    fn look_at_rollout(&self, wait: &Wait, view: &RolloutView, pinned: &mut Pinned) -> Waited {
        let ending = match view.row.rollout.status {
            Status::Halted { .. } | Status::Aborted => Ending::Halted,
            Status::Superseded => Ending::Superseded,
            _ => Ending::TimedOut,
        };
        let RolloutRow { target: state, target_id: id, revision, .. } = view.row;
        let goal = Goal { revision, id, min: wait.min };
        pinned.goal = Some(goal);
        let (tally, _) = self.tally(&view.fleet, &goal, wait.group.as_ref());
        let mut failed: Vec<String> = view.failed().map(str::to_owned).collect();
        failed.sort();
        Waited { ending, state, id, revision, tally, failed }
    }
}

/// Shows how many hosts have confirmed the goal. If this number falls, or the number of needed
/// hosts changes, the meter starts again.
fn show(meter: &Meter, tally: &Tally, shown: &mut (u64, u64)) {
    let (done, needed) = *shown;
    if tally.needed != needed || tally.done < done {
        meter.begin("confirmed", Unit::Items("hosts"), tally.needed);
        meter.add(tally.done);
    } else {
        meter.add(tally.done - done);
    }
    *shown = (tally.done, tally.needed);
}
