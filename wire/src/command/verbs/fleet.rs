//! `fleet`: shows which configurations the hosts run.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{CONFIGURATION, GROUP, JSON, Verb, number, switch, text};
use crate::command::{Command, Refusal};
use crate::fleet::Phase;

pub(in crate::command) const VERB: Verb = Verb {
    name: "fleet",
    about: "show which hosts run what, and what fails",
    flags: &[
            text("after", "only hosts whose names come after this name"),
            switch("behind", "only hosts that have not confirmed the current state and are not held"),
            GROUP,
            JSON,
            number("limit", "maximum number of hosts to show"),
            CONFIGURATION,
            text("phase", "only hosts in this phase, such as failed or healthy"),
        ],
    examples: &["fleet", "fleet -name web -behind", "fleet -name web -phase failed -json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::Fleet {
        name: given.maybe("name")?,
        group: given.word("group")?,
        phase: given.value("phase", phase)?,
        behind: given.is_set("behind"),
        after: given.word("after")?,
        limit: given.number("limit")?,
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Fleet { name, group, phase, behind, after, limit, json } = command else { return };
    line.maybe("name", name.as_ref().map(deploy_store::ConfigurationName::as_str));
    line.maybe("group", group.as_ref());
    line.maybe("phase", phase.map(Phase::word));
    line.maybe("after", after.as_ref());
    line.maybe("limit", limit.as_ref());
    line.switch("behind", *behind);
    line.switch("json", *json);
}

fn phase(text: &str) -> Result<Phase, String> {
    Phase::of(text).ok_or_else(|| {
        let words = Phase::ALL.map(Phase::word).join(", ");
        format!("not a phase; the phases are {words}")
    })
}
