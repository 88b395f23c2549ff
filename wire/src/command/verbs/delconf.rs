//! `delconf`: deletes a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, OVERRIDE_FLAG, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "delconf",
    about: "delete configuration",
    flags: &[switch("force", "remove configuration for real"), CONFIGURATION, OVERRIDE_FLAG],
    examples: &["delconf -name web -force"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name = given.configuration()?;
    let (force, overrides) = (given.is_set("force"), given.is_set("override"));
    Ok(Command::DeleteConfiguration { name, force, overrides })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::DeleteConfiguration { name, force, overrides } = command else { return };
    line.flag("name", name.as_str());
    line.switch("force", *force);
    line.switch("override", *overrides);
}
