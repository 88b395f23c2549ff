//! `wait`: waits until the hosts have deployed a configuration.

use std::time::Duration;

use deploy_store::ConfigurationName;

use crate::command::change_options::DEFAULT_WAIT;
use crate::command::given::{Given, hash_of};
use crate::command::line::{Line, duration_text};
use crate::command::share::Share;
use crate::command::verb::{
    CONFIGURATION, GROUP, JSON, QUIET, QUIET_FLAG, Verb, number, text,
};
use crate::command::{Command, Hash, Refusal};
use crate::fleet::Label;

pub(in crate::command) const VERB: Verb = Verb {
    name: "wait",
    about: "wait until the hosts have deployed configuration",
    flags: &[
            GROUP,
            text("id", "hash that the configuration should have"),
            JSON,
            text("min", "share of the hosts that must confirm, as in 98% (default: 100%)"),
            CONFIGURATION,
            QUIET_FLAG,
            number("state", "number of the state that should be current"),
            text("timeout", "maximum time to wait, as in 10m (the default)"),
        ],
    examples: &["wait -name web", "wait -name web -state 15 -timeout 5m -min 98%"],
    changes: false,
    reads_input: false,
};

/// The condition that `wait` waits for, and the maximum time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The configuration.
    pub name: ConfigurationName,
    /// The number of the state; `None` stands for the current state.
    pub state: Option<u64>,
    /// The id of the state; `None` stands for the current state.
    pub id: Option<Hash>,
    /// The maximum time to wait.
    pub timeout: Duration,
    /// The share of the hosts that must confirm.
    pub min: Share,
    /// If given, only hosts of this group count.
    pub group: Option<Label>,
    /// Whether to answer as JSON.
    pub json: bool,
    /// Whether to show no progress.
    pub quiet: bool,
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Wait(Wait {
        name: given.configuration()?,
        state: given.number("state")?,
        id: given.all("id").last().map(hash_of).transpose()?,
        timeout: given.value("timeout", crate::flags::duration)?.unwrap_or(DEFAULT_WAIT),
        min: given.value("min", Share::parse)?.unwrap_or(Share::ALL),
        group: given.word("group")?,
        json: given.is_set("json"),
        quiet: given.is_set(QUIET),
    }))
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Wait(wait) = command else { return };
    line.flag("name", wait.name.as_str());
    line.maybe("state", wait.state.as_ref());
    line.maybe("id", wait.id.as_ref());
    line.flag("timeout", duration_text(wait.timeout));
    line.maybe("min", Some(wait.min).filter(|min| *min != Share::ALL));
    line.maybe("group", wait.group.as_ref());
    line.switch("json", wait.json);
    line.switch(QUIET, wait.quiet);
}
