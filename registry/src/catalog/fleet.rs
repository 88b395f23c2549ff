//! Stores the data of the fleet: the hosts, the reports of their agents, and the events.
//!
//! ```text
//! hosts     names, keys, labels, holds      reports   batches of agents' reports
//! agents    the last report of each agent   attempts  the last deploys of each agent
//! outputs   ends of scripts' outputs        events    the events, in order
//! running   states that hosts run           freezes   configurations that may not change
//! offered   states for agents               fleet_snapshot  rows for verbs that count hosts
//! ```

pub(in crate::catalog) mod agents;
pub(in crate::catalog) mod attempts;
pub(in crate::catalog) mod events;
pub(in crate::catalog) mod fleet_snapshot;
pub(in crate::catalog) mod freezes;
pub(in crate::catalog) mod hosts;
mod offered;
pub(in crate::catalog) mod outputs;
pub(in crate::catalog) mod reports;
pub(in crate::catalog) mod running;

pub use agents::AgentRow;
pub use attempts::Attempt;
pub use events::{Event, Kind};
pub use fleet_snapshot::{CurrentState, FleetSnapshot, Scope};
pub use freezes::Freeze;
pub use hosts::{HostHold, HostRow};
pub use reports::{Applied, Sent};
