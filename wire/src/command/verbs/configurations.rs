//! `configurations`: lists the configurations.

use deploy_store::ConfigurationName;

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb, configuration, number};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "configurations",
    about: "list all known configurations",
    flags: &[
        configuration("after", "only configurations after this one"),
        JSON,
        number("limit", "maximum number of configurations to show"),
    ],
    examples: &["configurations -json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Configurations {
        after: given.maybe("after")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Configurations { after, limit, json } = command else { return };
    line.maybe("after", after.as_ref().map(ConfigurationName::as_str));
    line.maybe("limit", limit.as_ref());
    line.switch("json", *json);
}
