//! Stores rollouts. In a rollout, a change of a configuration reaches the hosts in waves. The crate
//! `deploy-rollout` decides the next step. This module reads the rows that the decision needs, and
//! writes the result in one transaction.
//!
//! ```text
//! rollout_rows    rollouts                 staging        starts a rollout for a change
//! rollout_members hosts and waves          rollout_end    makes the target or the base current
//! policies        named rules              rollout_steps  writes one step in one transaction
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
