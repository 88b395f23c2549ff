//! `bumpconf`: changes layers of a configuration to their newest versions.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::rollout_rules::{
    AT_ONCE, MAX_FAILED, POLICY, SOAK, SUPERSEDE, WAVES,
};
use crate::command::verb::{CONFIGURATION, IF_HASH, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, component};
use crate::command::{ChangeOptions, Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "bumpconf",
    about: "update single layer of configuration to most recent uploaded version",
    flags: &[
            AT_ONCE,
            component("component", "component name to update"),
            IF_HASH,
            MAX_FAILED,
            CONFIGURATION,
            OVERRIDE_FLAG,
            POLICY,
            SOAK,
            SUPERSEDE,
            TIMEOUT,
            WAIT,
            WAVES,
        ],
    examples: &[
            "bumpconf -name web -component config",
            "bumpconf -name web -component config -wait",
            "bumpconf -name web -component code -component config",
        ],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["name", "component"], "both name and component should be set")?;
    let components = given.all("component").map(|component| {
        component.parse().map_err(|err: deploy_store::Error| Refusal::usage(err.to_string()))
    });
    Ok(Command::BumpConfiguration {
        name: given.configuration_name()?,
        components: components.collect::<Result<_, _>>()?,
        if_hash: given.if_hash()?,
        options: ChangeOptions::parse(given)?,
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::BumpConfiguration { name, components, if_hash, options } = command else { return };
    line.flag("name", name.as_str());
    for component in components {
        line.flag("component", component.as_str());
    }
    line.maybe("if-hash", if_hash.as_ref());
    options.write(line);
}
