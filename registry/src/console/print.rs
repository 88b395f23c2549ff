//! Formats answers of the console as text and as JSON.

use deploy_store::{ComponentName, Configuration, ConfigurationName, Layer, escape, escape_json};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::State;
use crate::console::table::{list, table};
use crate::verbs::put::{Put, PutTarget};

/// A table shows this many digits of an id.
const SHORT_ID: usize = 12;

/// Formats names as JSON, or as text with one name on each line.
pub fn names<'a>(names: impl Iterator<Item = &'a str>, json: bool) -> Result<String, Refusal> {
    if json {
        return document(&names.collect::<Vec<_>>());
    }
    Ok(names.fold(String::new(), |text, name| text + &escape(name) + "\n"))
}

/// The layers of a configuration. With `verbose`, the text also has the configuration's name, time
/// and id.
pub fn configuration(configuration: &Configuration, verbose: bool) -> String {
    let rows: Vec<Vec<String>> = configuration
        .layers()
        .iter()
        .map(|layer| {
            vec![layer.component.to_string(), layer.version.to_string(), seconds(layer.created)]
        })
        .collect();
    let head = if verbose {
        let (name, id) = (configuration.name(), configuration.id());
        let modified = seconds(configuration.modified());
        format!("Name:\t{name}\nMtime:\t{modified}\nHash:\t{id}\n\n")
    } else {
        String::new()
    };
    head + &table(&rows)
}

/// Versions with their times, oldest first.
pub fn versions(versions: &[Layer]) -> String {
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|layer| vec![seconds(layer.created), layer.version.to_string()])
        .collect();
    table(&rows)
}

/// States, newest first. An asterisk marks the current state.
pub fn history(states: &[State]) -> String {
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|state| {
            let mark = if state.current { "*" } else { "" };
            let mut id = state.hash.to_string();
            id.truncate(SHORT_ID);
            let (who, command) = (escape(&state.who), escape(&state.command));
            vec![format!("{}{mark}", state.number), seconds(state.modified), id, who, command]
        })
        .collect();
    list(&rows)
}

/// Versions as JSON.
pub fn versions_json(name: &ComponentName, versions: &[Layer]) -> Result<String, Refusal> {
    #[derive(Serialize)]
    struct Entry<'a> {
        version: &'a str,
        hash: String,
        created: Timestamp,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        name: &'a str,
        /// The same value as `name`. Other documents call this value `component`.
        component: &'a str,
        versions: Vec<Entry<'a>>,
    }
    let versions = versions.iter().map(|layer| Entry {
        version: layer.version.as_str(),
        hash: layer.digest.to_string(),
        created: layer.created,
    });
    let component = name.as_str();
    document(&Document { name: component, component, versions: versions.collect() })
}

/// States as JSON.
pub fn history_json(name: &ConfigurationName, states: &[State]) -> Result<String, Refusal> {
    #[derive(Serialize)]
    struct StateDocument<'a> {
        number: u64,
        /// The same value as `number`. Other documents call this value `state`.
        state: u64,
        hash: String,
        modified: Timestamp,
        who: &'a str,
        command: &'a str,
        current: bool,
    }
    #[derive(Serialize)]
    struct History<'a> {
        name: &'a str,
        /// The same value as `name`. Other documents call this value `configuration`.
        configuration: &'a str,
        states: Vec<StateDocument<'a>>,
    }
    let states = states.iter().map(|state| StateDocument {
        number: state.number,
        state: state.number,
        hash: state.hash.to_string(),
        modified: state.modified,
        who: &state.who,
        command: &state.command,
        current: state.current,
    });
    let configuration = name.as_str();
    document(&History { name: configuration, configuration, states: states.collect() })
}

/// The answer of `put`: the digest and the new version, in the format of `sha256sum`.
pub fn put(target: &PutTarget, put: Put) -> String {
    format!("{}  {}:{}\n", put.digest, target.component, target.version)
}

/// The answer of `put`, as JSON.
pub fn put_json(target: &PutTarget, put: Put) -> Result<String, Refusal> {
    document(&serde_json::json!({
        "component": target.component.as_str(),
        "version": target.version.as_str(),
        "hash": put.digest.to_string(),
        "bytes": put.bytes,
    }))
}

pub(super) fn document(value: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string_pretty(value)
        .map(|text| escape_json(&text) + "\n")
        .map_err(|err| Refusal::new(exit::FAILED, format!("print JSON: {err}")))
}

/// A time in the format of RFC 3339, in UTC and whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
