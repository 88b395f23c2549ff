//! The agent: tracks one configuration of a registry and deploys it. [`cycle`] is the
//! walk of data, top to bottom; see ARCHITECTURE.md for where it comes from.

mod fingerprint;
pub mod flags;
pub mod help;
pub mod log;

mod blocking;
pub mod error;

pub mod backoff;
pub mod claim;
pub mod confine;
pub mod current;
pub mod find;
pub mod hold;
pub mod init;
pub mod keep;
pub mod limits;
pub mod output;
pub mod owner;
pub mod previous;
pub mod report;
pub mod request;
pub mod state;
pub mod stop;
pub mod throttle;

pub mod ask;
pub mod control;
pub mod running;
pub mod script;
pub mod session;
pub mod settings;
pub mod spare;
pub mod status;
pub mod unpack;
pub mod unsettled;
pub mod variables;
pub mod verify;

pub mod deploy;
pub mod fetch;
pub mod gc;
pub mod repair;
pub mod rollback;
pub mod room;
pub mod sweep;
pub mod sync;

pub mod cycle;
pub mod poll;
mod prepare;
pub mod progress;
pub mod serve;
