//! The library of the agent, which tracks one configuration of a registry and deploys that
//! configuration. The module [`cycle`] lists the steps of a deploy in order. ARCHITECTURE.md also
//! describes the steps before a deploy.
//!
//! Each entry of this list uses only entries above it. The modules inside one entry may use each
//! other.

pub mod log;
pub mod sandbox;
pub mod stop;

mod backoff;
mod blocking;

pub mod flags;

/// The files in which the agent keeps its records, and the symlink to the deployed root.
pub mod records {
    pub mod agent_report;
    pub mod current_link;
    pub mod instance;
    pub mod last_gate;
    pub mod previous;
    pub mod report_file;
    pub mod rollback_hold;
    pub mod running_script;
    pub mod state_file;
    pub mod state_owner;
    pub mod unproven;
    pub mod unsettled;
}

pub mod settings;

pub mod script;

pub mod error;

pub mod fetch;

/// The health gate: checks whether a deployed configuration works.
pub mod health {
    mod command_probe;
    pub mod gate;
    mod http_probe;
    mod probing;
    pub mod subject;
    mod tcp_probe;
    pub mod verdict;
    mod wording;
}

/// The watch: a command that runs on the connection to the registry. Over the watch, the agent
/// receives offers and sends reports.
pub mod fleet {
    pub mod conversation;
    pub mod deploy_counts;
    pub mod derived_state;
    pub mod identity;
    pub mod metrics_text;
    pub mod offers;
    pub mod reasons;
    pub mod report_keeper;
    pub mod reporter;
    pub mod waiting_reports;
    pub mod watch_task;
}

pub mod agent;

/// The use of space in the agent's directory: which data to keep, and how to free space.
pub mod space {
    pub mod background_sweep;
    pub mod collection;
    pub mod in_use;
    pub mod make_room;
    pub mod retained;
    pub mod spare_builder;
}

pub mod cycle;

pub mod cache_repair;

/// The requests that subcommands send to a running agent.
pub mod control {
    pub mod ask;
    pub mod control_socket;
    pub mod exit_codes;
    pub mod handler;
    pub mod protocol;
    pub mod sync_answer;
}

pub mod progress_log;

pub mod poll;

pub mod commands;
