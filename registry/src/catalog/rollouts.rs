//! Rollouts: a change of a configuration that reaches the hosts in waves. The crate `deploy-rollout`
//! decides; this room reads what the decision needs, and writes its result in one transaction.
//!
//! ```text
//! rollout_rows    rollouts                 staging        a change becomes the target of a rollout
//! rollout_members hosts and waves          rollout_end    the target becomes current, or does not
//! policies        rules with a name        rollout_steps  one step, one transaction
//! group_windows   maintenance windows of groups
//! ```

mod group_windows;
mod policies;
mod rollout_end;
mod rollout_members;
mod rollout_rows;
mod rollout_steps;
pub(in crate::catalog) mod staging;

pub use group_windows::GroupWindows;
pub use policies::NamedPolicy;
pub use rollout_members::OpenedWave;
pub use rollout_rows::RolloutRow;
pub(in crate::catalog) use rollout_rows::active as active_of;
pub use rollout_steps::{ActiveRollout, NewUnit, RolloutView, Steps};
pub(in crate::catalog) use rollout_steps::{active, forget};
