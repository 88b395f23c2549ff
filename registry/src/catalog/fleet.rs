//! The fleet: which hosts there are, what their agents report, and what happened.
//!
//! ```text
//! hosts     names, keys, labels, holds      reports   one batch of reports, one transaction
//! agents    the last report of each agent   attempts  the last deploys of each agent
//! outputs   ends of scripts' outputs        events    what happened, in order
//! running   states that hosts run           freezes   configurations that may not change
//! offered   what agents are offered
//! ```

pub mod agents;
pub mod attempts;
pub mod events;
pub mod freezes;
pub mod hosts;
mod offered;
pub mod outputs;
pub mod reports;
pub mod running;

pub use agents::AgentRow;
pub use attempts::Attempt;
pub use events::{Event, Kind};
pub use freezes::Freeze;
pub use hosts::{HostHold, HostRow};
pub use reports::{Applied, Sent};
