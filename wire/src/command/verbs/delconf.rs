//! `delconf`: deletes a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "delconf",
    about: "delete configuration",
    flags: &[switch("force", "remove configuration for real"), CONFIGURATION],
    examples: &["delconf -name web -force"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name = given.configuration()?;
    Ok(Command::DeleteConfiguration { name, force: given.is_set("force") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::DeleteConfiguration { name, force } = command else { return };
    line.flag("name", name.as_str());
    line.switch("force", *force);
}
