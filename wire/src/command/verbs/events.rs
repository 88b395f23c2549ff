//! `events`: shows what happened in the fleet.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, JSON, Verb, number, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "events",
    about: "show what happened in the fleet, oldest first",
    flags: &[
            switch("follow", "show new events as they happen, until interrupted"),
            JSON,
            number("limit", "show only this many of the newest events"),
            CONFIGURATION,
            number("since", "only events with numbers above this one"),
        ],
    examples: &["events -limit 20", "events -since 4711 -follow -json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Events {
        name: given.maybe("name")?,
        since: given.number("since")?,
        limit: given.number("limit")?,
        follow: given.is_set("follow"),
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Events { name, since, limit, follow, json } = command else { return };
    line.maybe("name", name.as_ref().map(deploy_store::ConfigurationName::as_str));
    line.maybe("since", since.as_ref());
    line.maybe("limit", limit.as_ref());
    line.switch("follow", *follow);
    line.switch("json", *json);
}
