//! Decides the steps of a rollout: a deploy that reaches a fleet in waves, and stops if it fails.
//! The hosts of a wave change from the *base*, the current state of a configuration, to the
//! *target*, the new state. The code is pure and synchronous: it uses no disk, network or clock.
//!
//! The registry keeps the [`Rollout`] and each host's [`Member`] in its catalogue. The registry
//! calls [`step()`] after each change of a host, after each [`command()`], and at the time that the
//! last step returned. The registry writes the changes of a step in one transaction. [`apply`]
//! defines what each change does. A step keeps nothing in memory. Its result depends only on its
//! arguments: the rollout, the hosts as the registry sees them, and the time. So the registry may
//! be killed at any moment. After the changes are applied, another step with the same time has no
//! changes.
//!
//! # Rules
//!
//! **Who counts.** All hosts count, except for held, duplicate and retired ones. An unknown host
//! counts if the policy allows unknown hosts, or if a wave names it. A percentage refers to the
//! hosts that count when the wave opens.
//!
//! **Opening.** A wave takes hosts that count, are connected, and are not in a wave yet. Unhealthy
//! hosts come first, and then the order is by name. The wave skips absent hosts; later waves may
//! take them. If too many hosts are absent, the rollout halts. Before it halts, the rollout waits
//! for hosts that have just disconnected ([`Policy::reconnect`]). So a restart of the registry does
//! not halt the rollout. A good host that disconnects counts as absent. The rollout skips a wave
//! that finds no host, without a soak.
//!
//! **Results.** A host is good once it is healthy on the target. A host has failed if it reports a
//! failure, if it is away for too long, or if it has no result in time. If a host has just
//! disconnected when a deadline passes, the host gets time to connect again. A failure is final:
//! only an operator's mark or retry changes it. Reports do not change a mark. A host that an
//! operator holds does not count. After the hold, the deadlines of a host without a result start
//! again.
//!
//! **Soak.** The soak of a wave begins when all hosts have a result. The soak ends when each good
//! host of the wave has been connected and healthy for the whole time. A host that was interrupted
//! gets time for one more soak, or [`Policy::lost_after`] if this is longer. After that time, the
//! host has failed. For hosts of earlier waves, only a failure that they report counts.
//!
//! **Halt.** The rollout halts if more hosts have failed than its budget allows. It halts if no
//! host of a wave is good, unless all hosts of the wave were unhealthy before. It also halts if no
//! host at all is good at the end. So if the waves can take no host, the target does not become the
//! current state, because no host has tried it. Only a rollout without any hosts succeeds
//! immediately.
//!
//! **Maintenance windows.** A wave also takes hosts whose windows are closed. These hosts deploy
//! when a window opens. While its windows are closed, the deadlines of a host without a result
//! stand still.
//!
//! **Pause.** While a rollout is paused or halted, deadlines do not count, but the reports of hosts
//! do. A resume restarts the deadlines and the soak. The registry refuses a resume if the rollout
//! would stop again immediately.

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
