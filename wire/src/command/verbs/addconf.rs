//! `addconf`: makes or replaces a configuration.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::rollout_rules::{
    AT_ONCE, MAX_FAILED, POLICY, SOAK, SUPERSEDE, WAVES,
};
use crate::command::verb::{CONFIGURATION, LAYER, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, switch};
use crate::command::{ChangeOptions, Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "addconf",
    about: "add new configuration from existing component versions",
    flags: &[
            AT_ONCE,
            LAYER,
            MAX_FAILED,
            CONFIGURATION,
            OVERRIDE_FLAG,
            POLICY,
            switch("replace", "replace the configuration of that name, if there is one"),
            SOAK,
            SUPERSEDE,
            TIMEOUT,
            WAIT,
            WAVES,
        ],
    examples: &[
            "addconf -name web -layer code:v7 -layer config:v3",
            "addconf -name web -layer code:v7 -replace",
        ],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name"], "name should be set")?;
    let text = "configuration should have at least one layer; give it with -layer";
    given.need(&["layer"], text)?;
    let (name, layers) = (given.configuration_name()?, given.layers()?);
    let options = ChangeOptions::parse(given)?;
    Ok(Command::AddConfiguration { name, layers, replace: given.is_set("replace"), options })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::AddConfiguration { name, layers, replace, options } = command else { return };
    line.flag("name", name.as_str());
    line.layers(layers);
    line.switch("replace", *replace);
    options.write(line);
}
