//! `metrics`: prints the registry's metrics.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::Verb;
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "metrics",
    about: "print the registry's metrics in the format of Prometheus",
    flags: &[],
    examples: &["metrics"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(_: &Given) -> Result<Command, Refusal> {
    Ok(Command::Metrics {})
}

pub(in crate::command) fn write(_: &Command, _: &mut Line) {}
