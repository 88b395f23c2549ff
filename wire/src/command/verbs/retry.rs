//! `retry`: makes hosts try a failed deploy again.

use deploy_store::ConfigurationName;

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, HOST, Verb, switch};
use crate::command::{Command, Refusal};
use crate::fleet::HostName;

pub(in crate::command) const VERB: Verb = Verb {
    name: "retry",
    about: "make hosts try a failed deploy again now",
    flags: &[switch("failed", "all hosts whose deploy failed"), HOST, CONFIGURATION],
    examples: &["retry -host web-17", "retry -name web -failed"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name: Option<ConfigurationName> = given.maybe("name")?;
    let host: Option<HostName> = given.word("host")?;
    if host.is_some() == given.is_set("failed") {
        return Err(Refusal::usage("give either -host or -failed".to_owned()));
    }
    Ok(Command::Retry { name, host })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Retry { name, host } = command else { return };
    line.maybe("name", name.as_ref().map(ConfigurationName::as_str));
    line.maybe("host", host.as_ref());
    line.switch("failed", host.is_none());
}
