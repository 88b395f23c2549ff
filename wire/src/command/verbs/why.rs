//! `why`: shows what happened to a deploy on a host.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, HOST, JSON, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "why",
    about: "show what happened on host: phases, reason, end of the script's output",
    flags: &[HOST, JSON, CONFIGURATION],
    examples: &["why -host web-17", "why -host web-17 -name web -json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Why {
        host: given.host()?,
        name: given.maybe("name")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Why { host, name, json } = command else { return };
    line.flag("host", host);
    line.maybe("name", name.as_ref().map(deploy_store::ConfigurationName::as_str));
    line.switch("json", *json);
}
