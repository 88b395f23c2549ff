//! `put`: uploads an archive and binds it to a version in one step.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, JSON, VERSION, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "put",
    about: "add new component version from archive on standard input",
    flags: &[JSON, COMPONENT, VERSION],
    examples: &["put -name config -version v3 < config.tgz"],
    changes: true,
    reads_input: true,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let (component, version) = given.named_version()?;
    Ok(Command::Put { component, version, json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Put { component, version, json } = command else { return };
    line.version(component, version);
    line.switch("json", *json);
}
