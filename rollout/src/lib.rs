//! Decides the steps of a rollout. A rollout is a deploy that reaches a fleet in waves, and halts
//! if too many hosts fail. The hosts of a wave change from the *base*, the current state of a
//! configuration, to the *target*, the new state. The code is synchronous, and uses no disk,
//! network or clock.
//!
//! The registry keeps the [`Rollout`] and each host's [`Member`] in its catalogue. A step returns
//! the time of the next step. The registry calls [`step()`] at this time, after each change of a
//! host, and after each [`command()`]. The registry writes the changes of a step in one
//! transaction. [`apply`] defines what each change does. A step keeps nothing in memory, and its
//! result depends only on its arguments: the rollout, the hosts as the registry sees them, and the
//! time. So a rollout survives a kill of the registry at any moment. If the registry applies the
//! changes of a step and makes a second step with the same time, the second step has no changes.
//!
//! # Rules
//!
//! **Who counts.** Known hosts count, unless they are held, duplicate or retired. An unknown host
//! counts if the policy allows unknown hosts, or if a wave names it. A percentage refers to the
//! hosts that count when the wave opens.
//!
//! **Opening.** A wave takes hosts that count, are connected, and are not in a wave yet. It takes
//! the unhealthy hosts first and then the other hosts, both in the order of their names. It skips
//! absent hosts, which later waves may take. If too many hosts are absent, the rollout halts.
//! Before it halts, the rollout waits for hosts that have just disconnected
//! ([`Policy::reconnect`]). Because of this wait, a restart of the registry does not halt the
//! rollout. A good host that disconnects counts as absent. If a wave can take no host, the rollout
//! skips the wave and its soak.
//!
//! **Results.** A host is good once it is healthy on the target. A host has failed if it reports a
//! failure, if it is away for too long, or if it has no result in time. If a host has just
//! disconnected when a deadline passes, the host gets time to connect again. A failure is final:
//! only an operator's mark or retry changes the result of a failed host. If an operator has marked
//! a host, its reports do not change its result. A host that an operator holds does not count. When
//! the hold ends, the deadlines of a host without a result start again.
//!
//! **Soak.** The soak of a wave begins when all hosts of the wave have a result. The soak ends when
//! each good host of the wave is connected, and has been healthy for the whole length of a soak. If
//! a host is away at the end of the soak, or was unhealthy during the soak, the rollout waits for
//! up to one more soak, or up to [`Policy::lost_after`] if this is longer. A host that is still
//! away then, or has still not been healthy for a whole soak, has failed. A good host of an earlier
//! wave fails only if it reports a failure.
//!
//! **Halt.** The rollout halts if more hosts have failed than its budget allows. It halts if no
//! host of a wave is good, unless all hosts of the wave were unhealthy before the offer. It also
//! halts if no host of the fleet is good after the last wave. So the target never becomes the
//! current state before a host has deployed it. The only exception is a configuration without any
//! hosts, whose rollout succeeds immediately.
//!
//! **Maintenance windows.** A wave also takes hosts whose windows are closed. These hosts deploy
//! when a window opens. The deadlines of a host without a result stand still while its windows are
//! closed.
//!
//! **Pause.** While a rollout is paused or halted, no deadline makes a host fail, but the reports
//! of hosts still count. A resume restarts the deadlines and the soak. The registry refuses a
//! resume if the rollout would stop again immediately.

mod census;
mod deadlines;
mod duration_words;
mod failure;
mod limit;
mod maintenance_window;
mod milliseconds;
mod operator_command;
mod percentage;
mod policy;
mod results;
mod rollout_change;
mod rollout_host;
mod rollout_plan;
mod rollout_state;
#[cfg(test)]
mod sample_rollout;
mod selector;
mod soak;
mod step;
mod wave_opening;
mod waves;
mod windows;

pub use duration_words::hosts_in_words;
pub use failure::Failure;
pub use limit::{BadLimit, Limit};
pub use maintenance_window::{BadWindow, Window};
pub use operator_command::{Command, Refusal, command};
pub use policy::{BadPolicy, MAX_TIME, Policy};
pub use rollout_change::{Change, Taken, apply, apply_all};
pub use rollout_host::{Host, Member, Outcome, Standing, failed};
pub use rollout_plan::{Plan, PlannedWave, plan};
pub use rollout_state::{Rollout, Status, shows_target};
pub use selector::{BadSelector, MAX_NAMED_HOSTS, Selector};
pub use step::{Step, step};
pub use waves::{BadWaves, MAX_WAVES, Waves};
pub use windows::{BadWindows, MAX_WINDOWS, Windows, is_open, next_close, next_open, open_for};
