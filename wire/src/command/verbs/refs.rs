//! `refs`: shows the references to a blob.

use crate::command::given::{Given, hash_of};
use crate::command::line::Line;
use crate::command::verb::{HASH, JSON, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "refs",
    about: "show why a file is kept: refs HASH",
    flags: &[HASH, JSON],
    examples: &["refs 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::References { digest: hash_of(given.get("hash"))?, json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::References { digest, json } = command else { return };
    line.flag("hash", digest);
    line.switch("json", *json);
}
