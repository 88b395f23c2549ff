//! `verify`: reads blobs, and checks them for damage.

use crate::command::given::Given;
use crate::command::line::{Line, duration_text};
use crate::command::share::Share;
use crate::command::verb::{JSON, QUIET, QUIET_FLAG, Verb, switch, text};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "verify",
    about: "read all files and look for damage; exit code 8 if damage is found",
    flags: &[
            text("budget", "do not begin another file after this time, as in 10m"),
            JSON,
            QUIET_FLAG,
            switch("resume", "continue where the last verify ended"),
            text("sample", "read only this share of the files, picked at random, as in 5%"),
        ],
    examples: &["verify", "verify -sample 5% -budget 10m"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Verify {
        sample: given.value("sample", Share::parse)?,
        budget: given.value("budget", crate::flags::duration)?,
        resume: given.is_set("resume"),
        json: given.is_set("json"),
        quiet: given.is_set(QUIET),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Verify { sample, budget, resume, json, quiet } = command else { return };
    line.maybe("sample", sample.as_ref());
    line.maybe("budget", budget.map(duration_text));
    line.switch("resume", *resume);
    line.switch("json", *json);
    line.switch(QUIET, *quiet);
}
