//! `addver`: binds an uploaded blob to a version.

use crate::command::given::{Given, hash_of};
use crate::command::line::Line;
use crate::command::verb::{COMPONENT, HASH, VERSION, Verb};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "addver",
    about: "add new component version from previously uploaded file",
    flags: &[HASH, COMPONENT, VERSION],
    examples: &[concat!(
            "addver -name config -version v3 -hash ",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        )],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let all = ["name", "version", "hash"];
    given.need(&all, "name, version and hash should all be set")?;
    Ok(Command::AddVersion {
        component: given.component()?,
        version: given.parsed("version")?,
        digest: hash_of(given.get("hash"))?,
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::AddVersion { component, version, digest } = command else { return };
    line.version(component, version);
    line.flag("hash", digest);
}
