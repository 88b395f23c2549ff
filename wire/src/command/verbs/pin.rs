//! `pin`: keeps a version until it is unpinned.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, VERSION, Verb, text};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "pin",
    about: "keep component version until it is unpinned",
    flags: &[text("m", "the reason"), COMPONENT, VERSION],
    examples: &["pin -name code -version v7 -m \"last version that ran in the old hall\""],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let (component, version) = given.named_version()?;
    Ok(Command::Pin { component, version, message: given.get("m").to_owned() })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Pin { component, version, message } = command else { return };
    line.version(component, version);
    line.maybe("m", Some(message).filter(|message| !message.is_empty()));
}
