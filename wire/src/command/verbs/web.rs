//! `web`: makes an address that opens the registry's web page in a browser, with a login.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb, number};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "web",
    about: "print an address that opens the web page in a browser, for ssh -L 8080:web:80",
    flags: &[JSON, number("port", "the local port of ssh -L (default 8080)")],
    examples: &["web", "web -port 9000"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let port = given.value("port", |text| match text.parse() {
        Ok(0) | Err(_) => Err("not a port".to_owned()),
        Ok(port) => Ok(port),
    })?;
    Ok(Command::Web { port, json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Web { port, json } = command else { return };
    line.maybe("port", port.as_ref());
    line.switch("json", *json);
}
