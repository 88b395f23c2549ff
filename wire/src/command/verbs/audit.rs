//! `audit`: shows the entries of the audit trail.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::command::given::Given;
use crate::command::line::{Line, duration_text};
use crate::command::verb::{JSON, Verb, number, text};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "audit",
    about: "show who changed what, newest first",
    flags: &[
            number("before", "only changes with numbers below this one"),
            JSON,
            number("limit", "maximum number of changes to show"),
            text("since", "only changes since a time, as in 2026-01-02T15:04:05Z, or since a duration before now, as in 36h"),
        ],
    examples: &["audit -since 24h", "audit -limit 20 -json"],
    changes: false,
    reads_input: false,
};

/// The time of the earliest entry to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The time itself.
    At(Timestamp),
    /// A duration before now.
    Ago(Duration),
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => time.fmt(f),
            Self::Ago(age) => f.write_str(&duration_text(*age)),
        }
    }
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Audit {
        since: given.value("since", since)?,
        before: given.number("before")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Audit { since, before, limit, json } = command else { return };
    line.maybe("since", since.as_ref());
    line.maybe("before", before.as_ref());
    line.maybe("limit", limit.as_ref());
    line.switch("json", *json);
}

/// Reads a time, or a duration before now.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse() {
        return Ok(Since::At(time));
    }
    crate::flags::duration(text)
        .map(Since::Ago)
        .map_err(|_| "neither a time like 2026-01-02T15:04:05Z nor a duration like 36h".to_owned())
}
