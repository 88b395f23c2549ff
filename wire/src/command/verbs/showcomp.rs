//! `showcomp`: shows the versions of a component.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, JSON, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "showcomp",
    about: "show component versions",
    flags: &[JSON, COMPONENT],
    examples: &["showcomp -name config"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name"], "name should be set")?;
    Ok(Command::ShowComponent { name: given.component()?, json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::ShowComponent { name, json } = command else { return };
    line.flag("name", name.as_str());
    line.switch("json", *json);
}
