//! `showlayers`: shows the stored layers of images.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{INPUT, JSON, Verb, switch};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "showlayers",
    about: "show stored layers of container images",
    flags: &[switch(INPUT, "only the layers that standard input lists, as JSON"), JSON],
    examples: &["showlayers", "showlayers -json - < origins.json"],
    changes: false,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    Ok(Command::ShowLayers { asked: given.is_set(INPUT), json: given.is_set("json") })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::ShowLayers { asked, json } = command else { return };
    line.switch("json", *json);
    line.switch(INPUT, *asked);
}
