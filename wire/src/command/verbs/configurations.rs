//! `configurations`: lists the configurations.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "configurations",
    about: "list all known configurations",
    flags: &[JSON],
    examples: &["configurations -json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Configurations { json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Configurations { json } = command else { return };
    line.switch("json", *json);
}
