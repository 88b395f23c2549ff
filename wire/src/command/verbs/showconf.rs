//! `showconf`: shows a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, JSON, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "showconf",
    about: "show configuration",
    flags: &[JSON, CONFIGURATION, switch("v", "show extra details")],
    examples: &["showconf -name web", "showconf -name web -v"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::ShowConfiguration {
        name: given.configuration()?,
        verbose: given.is_set("v"),
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::ShowConfiguration { name, verbose, json } = command else { return };
    line.flag("name", name.as_str());
    line.switch("v", *verbose);
    line.switch("json", *json);
}
