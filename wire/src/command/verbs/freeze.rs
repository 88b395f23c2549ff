//! `freeze`: refuses changes of a configuration for a while.

use std::time::Duration;

use crate::command::given::Given;
use crate::command::line::{Line, duration_text};
use crate::command::verb::{CONFIGURATION, Verb, switch, text};
use crate::command::{Command, Refusal};

/// The duration of a freeze if `-for` is not given.
const DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::command) const VERB: Verb = Verb {
    name: "freeze",
    about: "refuse changes of configuration for a while",
    flags: &[
            text("for", "how long, as in 2h (default: 24h)"),
            text("m", "the reason"),
            CONFIGURATION,
            switch("off", "allow changes again"),
        ],
    examples: &["freeze -name web -m \"Black Friday\" -for 72h", "freeze -name web -off"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name = given.configuration()?;
    if given.is_set("off") {
        return Ok(Command::Freeze { name, until: None });
    }
    given.need(&["m"], "give the reason with -m")?;
    let time = given.value("for", crate::flags::duration)?.unwrap_or(DEFAULT);
    Ok(Command::Freeze { name, until: Some((time, given.get("m").to_owned())) })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Freeze { name, until } = command else { return };
    line.flag("name", name.as_str());
    if let Some((time, message)) = until {
        line.flag("m", message);
        line.flag("for", duration_text(*time));
    }
    line.switch("off", until.is_none());
}
