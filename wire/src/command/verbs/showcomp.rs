//! `showcomp`: shows the versions of a component.

use deploy_store::VersionName;

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, JSON, Verb, number, version};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "showcomp",
    about: "show component versions",
    flags: &[
        version("before", "only versions that were added before this one"),
        JSON,
        number("limit", "show only this many of the newest versions"),
        COMPONENT,
    ],
    examples: &["showcomp -name config"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name"], "name should be set")?;
    Ok(Command::ShowComponent {
        name: given.component()?,
        before: given.maybe("before")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::ShowComponent { name, before, limit, json } = command else { return };
    line.flag("name", name.as_str());
    line.maybe("before", before.as_ref().map(VersionName::as_str));
    line.maybe("limit", limit.as_ref());
    line.switch("json", *json);
}
