//! `wait`: waits until the hosts of a configuration have deployed its current state.

use std::time::Duration;

use deploy_rollout::Status;
use deploy_store::{Digest, Meter, Unit};
use deploy_wire::command::Wait;
use tokio::time::{Instant, sleep, timeout_at};

use crate::catalog::fleet::{CurrentState, FleetSnapshot, Scope};
use crate::catalog::rollouts::RolloutRow;
use crate::error::{Error, Result};
use crate::fleet::convergence::{self, Goal, Tally, Verdict};
use crate::registry::Registry;

/// The shortest time between two looks at the fleet.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause between two looks, as a multiple of the time that a look takes.
const PAUSE_FACTOR: u32 = 4;
/// The longest time between two looks at the fleet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a wait waits for, once it is known.
#[derive(Debug, Clone, Copy, Default)]
struct Pinned {
    goal: Option<Goal>,
    /// The number of the rollout whose target the wait waits for.
    rollout: Option<u64>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Enough hosts confirmed.
    Converged,
    /// Too many hosts failed.
    Halted,
    /// Another state has become current.
    Superseded,
    /// The time limit of the wait has passed.
    TimedOut,
}

/// The result of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// How the wait ended.
    pub ending: Ending,
    /// The number of the current state.
    pub state: u64,
    /// The id of the current state.
    pub id: Digest,
    /// The number of the change that made the state current.
    pub revision: u64,
    /// How many hosts have confirmed, failed, or are still missing.
    pub tally: Tally,
    /// The hosts that failed, by name.
    pub failed: Vec<String>,
}

impl Registry {
    /// Waits until enough hosts have confirmed, or the wait ends in another way. `meter` shows how
    /// many have confirmed.
    pub async fn wait_for(&self, wait: &Wait, meter: &Meter) -> Result<Waited> {
        let end = Instant::now() + wait.timeout.min(Duration::from_secs(365 * 24 * 60 * 60));
        let mut changes = self.catalog.changes.subscribe(&wait.name);
        let (mut written, mut stopped) = (self.fleet.written(), self.fleet.stopped());
        let mut goal = Pinned::default();
        let mut shown = (0, 0);
        let waited = loop {
            changes.borrow_and_update();
            written.borrow_and_update();
            let began = Instant::now();
            let waited = self.look(wait, &mut goal).await?;
            // A look at a large fleet takes longer, and the pause grows accordingly. So the
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
                // After the time limit, the loop looks at the fleet one last time.
                _ = timeout_at(end, next) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {
                    return Err(Error::Failed("the registry stops; wait again".to_owned()));
                }
            }
        };
        meter.end();
        Ok(waited)
    }

    /// Looks at the fleet once. If the result is not decided yet, the ending is
    /// [`Ending::TimedOut`].
    async fn look(&self, wait: &Wait, pinned: &mut Pinned) -> Result<Waited> {
        let none = || Error::NotFound(format!("configuration \"{}\" not found", wait.name));
        let scope = Scope { name: Some(&wait.name), host: None };
        let fleet = self.catalog.fleet_snapshot(scope).await?;
        let current = fleet.currents.get(wait.name.as_str()).ok_or_else(none)?;
        let CurrentState { number: state, revision, id } = *current;
        let now = Goal { revision, id, min: wait.min };
        let is_other_id = wait.id.as_ref().is_some_and(|wanted| !wanted.is_of(id));
        let is_later = wait.state.is_some_and(|wanted| state > wanted);
        let is_earlier = wait.state.is_some_and(|wanted| state < wanted);
        if let Some(waited) = self.look_at_rollout(wait, &fleet, pinned).await? {
            return Ok(waited);
        }
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
}

impl Registry {
    /// If the wait is for the target of a rollout, and the target is not current yet: what the
    /// rollout says.
    async fn look_at_rollout(
        &self,
        wait: &Wait,
        fleet: &FleetSnapshot,
        pinned: &mut Pinned,
    ) -> Result<Option<Waited>> {
        let is_wanted = |row: &RolloutRow| match (&wait.id, wait.state) {
            (None, None) => true,
            (id, state) => {
                id.as_ref().is_none_or(|id| id.is_of(row.target_id))
                    && state.is_none_or(|state| state == row.target)
            }
        };
        if pinned.rollout.is_none() {
            let active = fleet.rollouts.get(wait.name.as_str()).map(|(row, _)| row);
            pinned.rollout = active.filter(|row| is_wanted(row)).map(|row| row.number);
        }
        let Some(number) = pinned.rollout else { return Ok(None) };
        let view = self.catalog.rollout(&wait.name, Some(number)).await?;
        let Some(view) = view.filter(|view| view.row.rollout.status != Status::Succeeded) else {
            return Ok(None);
        };
        let ending = match view.row.rollout.status {
            Status::Halted { .. } | Status::Aborted => Ending::Halted,
            Status::Superseded => Ending::Superseded,
            _ => Ending::TimedOut,
        };
        let RolloutRow { target, target_id, revision, .. } = view.row;
        let now = Goal { revision, id: target_id, min: wait.min };
        pinned.goal = Some(now);
        let (tally, _) = self.tally(&view.fleet, &now, wait.group.as_ref());
        let mut failed: Vec<String> = view.failed().map(str::to_owned).collect();
        failed.sort();
        let (state, id) = (target, target_id);
        Ok(Some(Waited { ending, state, id, revision, tally, failed }))
    }
}

/// Shows how many hosts have confirmed. This number may also fall.
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
