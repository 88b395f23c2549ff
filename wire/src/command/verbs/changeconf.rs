//! `changeconf`: sets the versions of a configuration's layers.

use std::collections::BTreeMap;

use crate::command::given::{Given, pair};
use crate::command::line::Line;
use crate::command::rollout_rules::{
    AT_ONCE, MAX_FAILED, POLICY, SOAK, SUPERSEDE, WAVES,
};
use crate::command::verb::{
    CONFIGURATION, IF_HASH, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, component, version,
};
use crate::command::{ChangeOptions, Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "changeconf",
    about: "update single layer of configuration to specific version",
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
            version("version", "new version of selected component"),
            WAIT,
            WAVES,
        ],
    examples: &[
            "changeconf -name web -component config -version v2",
            "changeconf -name web -component config -version v2 -wait -timeout 5m",
            "changeconf -name web -component code -version v6 -component config -version v2",
        ],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let all = ["name", "component", "version"];
    given.need(&all, "name, component and version should all be set")?;
    let (components, versions) = (given.all("component"), given.all("version"));
    if components.count() != versions.count() {
        let text = "each -component should have its -version".to_owned();
        return Err(Refusal::usage(text));
    }
    let mut changes = BTreeMap::new();
    let mut order = Vec::new();
    for (component, version) in given.all("component").zip(given.all("version")) {
        let (component, version) = pair(component, version)?;
        order.push(component.clone());
        if changes.insert(component.clone(), version).is_some() {
            return Err(Refusal::usage(format!("duplicate component \"{component}\"")));
        }
    }
    let changes = order.into_iter().map(|component| {
        let version = changes.remove(&component).expect("each component was inserted");
        (component, version)
    });
    Ok(Command::ChangeConfiguration {
        name: given.configuration_name()?,
        changes: changes.collect(),
        if_hash: given.if_hash()?,
        options: ChangeOptions::parse(given)?,
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::ChangeConfiguration { name, changes, if_hash, options } = command else { return };
    line.flag("name", name.as_str());
    for (component, version) in changes {
        line.flag("component", component.as_str());
        line.flag("version", version.as_str());
    }
    line.maybe("if-hash", if_hash.as_ref());
    options.write(line);
}
