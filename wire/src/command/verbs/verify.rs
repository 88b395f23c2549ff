//! `verify`: reads blobs and looks for damage.

use std::fmt;

use crate::command::given::Given;
use crate::command::line::{Line, duration_text};
use crate::command::verb::{JSON, QUIET, QUIET_FLAG, Verb, switch, text};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "verify",
    about: "read all files and look for damage, exit code 8 if there is any",
    flags: &[
            text("budget", "begin no other file after this time, as in 10m"),
            JSON,
            QUIET_FLAG,
            switch("resume", "continue where the last verify ended"),
            text("sample", "read only this share of the files, picked at random, as in 5%"),
        ],
    examples: &["verify", "verify -sample 5% -budget 10m"],
    changes: false,
    reads_input: false,
};

/// A share, in hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample(pub u32);

impl Sample {
    /// The share that includes all blobs.
    pub const ALL: Self = Self(10_000);
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, rest) => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Verify {
        sample: given.value("sample", sample)?,
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

/// Reads a share, such as `5%`.
fn sample(text: &str) -> Result<Sample, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths = format!("{part:0<2}");
    Some(format!("{whole}{hundredths}"))
        .filter(|all| hundredths.len() == 2 && all.len() <= 6 && digits(all))
        .and_then(|all| all.parse().ok())
        .filter(|hundredths| (1..=Sample::ALL.0).contains(hundredths))
        .map(Sample)
        .ok_or_else(|| "should be from 0.01% to 100%".to_owned())
}
