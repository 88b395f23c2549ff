//! `history`: shows the states of a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, JSON, Verb, number};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "history",
    about: "show states of configuration, newest first",
    flags: &[
        number("before", "only states with numbers below this one"),
        JSON,
        number("limit", "maximum number of states to show"),
        CONFIGURATION,
    ],
    examples: &["history -name web -limit 5", "history -name web -limit 5 -before 120"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::History {
        name: given.configuration()?,
        before: given.number("before")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::History { name, before, limit, json } = command else { return };
    line.flag("name", name.as_str());
    line.maybe("before", before.as_ref());
    line.maybe("limit", limit.as_ref());
    line.switch("json", *json);
}
