//! `delver`: deletes a version.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, FORCE_STATE, VERSION, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "delver",
    about: "delete component version",
    flags: &[FORCE_STATE, COMPONENT, VERSION],
    examples: &["delver -name config -version v1"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let (component, version) = given.named_version()?;
    Ok(Command::DeleteVersion { component, version, force: given.is_set("force") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::DeleteVersion { component, version, force } = command else { return };
    line.version(component, version);
    line.switch("force", *force);
}
