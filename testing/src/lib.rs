//! Contains helpers that the tests of several crates share. No program depends on this crate.

mod again;
mod bucket;
mod catalogue;
mod database_server;
mod engines;
mod fault_proxy;
mod keys;
mod paths;
mod wait;

pub use again::{in_own_mounts, run_test_again};
pub use bucket::{bucket, server_bucket};
pub use catalogue::{catalogue, server_catalogue};
pub use database_server::DatabaseServer;
pub use engines::{Engine, Engines};
pub use fault_proxy::{FaultProxy, Faults};
pub use keys::{fingerprint, make_key};
pub use paths::{directories, package, program};
pub use wait::eventually;
