//! `stat`: shows counts, bytes and free space.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "stat",
    about: "show counts, bytes, free space, and the last gc and verify",
    flags: &[JSON, switch("registries", "also show the registries that share the catalogue")],
    examples: &["stat", "stat -registries"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Stat { registries: given.is_set("registries"), json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Stat { registries, json } = command else { return };
    line.switch("registries", *registries);
    line.switch("json", *json);
}
