//! `delcomp`: deletes a component with all its versions.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, FORCE_STATE, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "delcomp",
    about: "delete all component versions",
    flags: &[FORCE_STATE, COMPONENT],
    examples: &["delcomp -name config"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name"], "name should be set")?;
    Ok(Command::DeleteComponent { name: given.component()?, force: given.is_set("force") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::DeleteComponent { name, force } = command else { return };
    line.flag("name", name.as_str());
    line.switch("force", *force);
}
