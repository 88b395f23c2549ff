//! `addimage`: makes a configuration from the layers of an image, or replaces an existing
//! configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{
    CONFIGURATION, INPUT, JSON, OVERRIDE, OVERRIDE_FLAG, UPPER_LAYER, Verb, switch,
};
use crate::command::{Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "addimage",
    about: "add new configuration from uploaded layers of container image",
    flags: &[
            switch(INPUT, "read the layers from standard input, as JSON"),
            JSON,
            UPPER_LAYER,
            CONFIGURATION,
            OVERRIDE_FLAG,
        ],
    examples: &["addimage -name app - < layers.json"],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name"], "name should be set")?;
    if !given.is_set(INPUT) {
        let text = "the image is read from standard input: add - at the end";
        return Err(Refusal::usage(text.to_owned()));
    }
    let (name, layers) = (given.configuration_name()?, given.layers()?);
    let (json, overrides) = (given.is_set("json"), given.is_set(OVERRIDE));
    Ok(Command::AddImage { name, layers, json, overrides })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::AddImage { name, layers, json, overrides } = command else { return };
    line.flag("name", name.as_str());
    line.layers(layers);
    line.switch("json", *json);
    line.switch(OVERRIDE, *overrides);
    line.switch(INPUT, true);
}
