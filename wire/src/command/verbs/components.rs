//! `components`: lists the components.

use deploy_store::ComponentName;

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb, component, number};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "components",
    about: "list all known components",
    flags: &[
        component("after", "only components after this one"),
        JSON,
        number("limit", "maximum number of components to show"),
    ],
    examples: &["components"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Components {
        after: given.maybe("after")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Components { after, limit, json } = command else { return };
    line.maybe("after", after.as_ref().map(ComponentName::as_str));
    line.maybe("limit", limit.as_ref());
    line.switch("json", *json);
}
