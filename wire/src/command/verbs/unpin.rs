//! `unpin`: removes the pin of a version.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, VERSION, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "unpin",
    about: "undo pin",
    flags: &[COMPONENT, VERSION],
    examples: &["unpin -name code -version v7"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let (component, version) = given.named_version()?;
    Ok(Command::Unpin { component, version })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Unpin { component, version } = command else { return };
    line.version(component, version);
}
