//! Decides the steps of a rollout: a deploy that reaches a fleet in waves, and stops if it goes
//! wrong. The code is pure: it uses no disk, network or clock, and it is synchronous.
//!
//! The registry keeps the [`Rollout`] and each host's [`Member`] in its catalogue. It calls [`step()`]
//! after each change of a host, after each [`command()`], and at the time that the last step named.
//! It writes the changes of a step as one transaction, with [`apply`] as the meaning of each
//! change. A step decides from the stored state alone. So the registry may be killed at any moment,
//! and two steps for the same moment are equal.
//!
//! # Rules
//!
//! **Who counts.** All hosts count, except for held, duplicate and retired ones. An unknown unit
//! counts if the policy allows unknown units, or if a wave names it. Percentages are of the hosts
//! that count at the moment when a wave opens.
//!
//! **Opening.** A wave takes hosts that count, are connected, and belong to no wave yet: unhealthy
//! ones first, then by name. It skips absent hosts; later waves may take them. If too many hosts are
//! absent, the rollout halts. It first waits for hosts that have just disconnected
//! ([`Policy::reconnect`]), so that a restart of the registry does not halt it. A host that was good
//! and has vanished counts as absent. A wave that finds no host is skipped without a soak.
//!
//! **Results.** A host is good once it is healthy on the target. It has failed if it reports so, if
//! it is away for too long, or if it has no result in time. If a deadline passes while a host has
//! just disconnected, the host first has the time to connect again. A failure is final: only an
//! operator's mark or retry changes it. A mark is final, too; reports do not change it. Operators'
//! holds take hosts out of the count. After a hold, the deadlines of a host without a result start
//! again.
//!
//! **Soak.** It begins when all hosts have a result, and ends when each good host of the wave has
//! been connected and healthy for the whole time. An interrupted host gets one more soak. A host
//! that is away gets the time after which hosts are lost, if this is longer. After that, it has
//! failed. For hosts of earlier waves, only a failure that they report counts.
//!
//! **Halt.** The rollout halts if more hosts have failed than its budget allows, or if no host of a
//! wave is good (unless all of them were unhealthy before), or if no host at all is good at the end.
//! The last rule also covers a fleet in which no host can be taken: a target that nobody has tried
//! does not become the current state. Only a rollout without any hosts succeeds at once.
//!
//! **Maintenance windows.** A wave takes hosts whose windows are closed, too. They deploy when a
//! window opens. While their windows are closed, the deadlines of hosts without a result stand still.
//!
//! **Pause.** While a rollout is paused or halted, deadlines do not count, and what hosts report
//! does. A resume restarts the deadlines and the soak. It is refused if the rollout would stop again
//! at once.

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
