//! `rollback`: makes an earlier state of a configuration current again.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::rollout_rules::{
    AT_ONCE, MAX_FAILED, POLICY, SOAK, SUPERSEDE, WAVES,
};
use crate::command::verb::{CONFIGURATION, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, number};
use crate::command::{ChangeOptions, Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "rollback",
    about: "make earlier state of configuration current again",
    flags: &[
            AT_ONCE,
            MAX_FAILED,
            CONFIGURATION,
            OVERRIDE_FLAG,
            POLICY,
            SOAK,
            SUPERSEDE,
            TIMEOUT,
            number("to", "number of the state (default: the last earlier state that was not rolled back)"),
            WAIT,
            WAVES,
        ],
    examples: &["rollback -name web", "rollback -name web -to 4"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Rollback {
        name: given.configuration()?,
        to: given.number("to")?,
        options: ChangeOptions::parse(given)?,
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Rollback { name, to, options } = command else { return };
    line.flag("name", name.as_str());
    line.maybe("to", to.as_ref());
    options.write(line);
}
