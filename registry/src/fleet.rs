//! The fleet consists of the connected agents, the offers to these agents, and their reports.
//!
//! ```text
//! hub            parts that all watches share   watch_session  one agent's watch
//! presence       the connected agents           report_queue   reports, many in one transaction
//! offer_cache    lines shared by all agents     polls          agents that only poll
//! convergence    decides the answer of `wait`   metrics        counters and histograms
//! maintenance    the windows of groups          host_view      the state to offer to a host
//! open_rollouts  active rollouts, in memory     rollout_hosts  the hosts as a rollout sees them
//! recent_deploys the deploys that have just ended
//! watch_signals  signals from the registry to one watch
//! catch_up, contact_exchange, remote_contacts, remote_changes   the other registries
//! ```
//!
//! These modules do not depend on ssh. The module `ssh` receives the lines of agents, and calls
//! these modules. The module `console` runs the verbs.

mod agent_id;
pub mod catch_up;
mod contact_exchange;
pub mod convergence;
pub mod host_view;
pub mod hub;
mod maintenance;
pub mod metrics;
mod offer_cache;
pub mod open_rollouts;
pub mod polls;
pub mod presence;
pub mod recent_deploys;
mod remote_changes;
mod remote_contacts;
mod report_queue;
pub mod rollout_hosts;
pub mod watch_session;
pub mod watch_signals;

pub use hub::Fleet;
