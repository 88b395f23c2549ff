//! `diff`: shows the differences between two states of a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, JSON, Verb, number, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "diff",
    about: "show what differs between two states of configuration",
    flags: &[
            switch("files", "compare files rather than layers"),
            number("from", "number of the earlier state (default: the state before the state of -to)"),
            JSON,
            CONFIGURATION,
            number("to", "number of the later state (default: the current one)"),
        ],
    examples: &["diff -name web", "diff -name web -from 3 -to 5 -files"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Diff {
        name: given.configuration()?,
        from: given.number("from")?,
        to: given.number("to")?,
        files: given.is_set("files"),
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Diff { name, from, to, files, json } = command else { return };
    line.flag("name", name.as_str());
    line.maybe("from", from.as_ref());
    line.maybe("to", to.as_ref());
    line.switch("files", *files);
    line.switch("json", *json);
}
