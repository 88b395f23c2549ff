//! `gc`: removes old versions and unreferenced blobs.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{DRY_RUN, JSON, QUIET, QUIET_FLAG, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "gc",
    about: "remove old versions and files that nothing needs",
    flags: &[
            switch("dry-run", "only show what would be removed, and why the rest is kept"),
            switch("force", "run even if the registry knows no version of any component"),
            JSON,
            switch(DRY_RUN, "same as -dry-run"),
            QUIET_FLAG,
        ],
    examples: &["gc -n", "gc"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Collect {
        dry_run: given.is_set(DRY_RUN) || given.is_set("dry-run"),
        force: given.is_set("force"),
        json: given.is_set("json"),
        quiet: given.is_set(QUIET),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Collect { dry_run, force, json, quiet } = command else { return };
    line.switch(DRY_RUN, *dry_run);
    line.switch("force", *force);
    line.switch("json", *json);
    line.switch(QUIET, *quiet);
}
