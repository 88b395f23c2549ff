//! `host`: lists hosts, and labels, holds, releases or retires a host.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{HOST, JSON, Takes, Verb, number, switch, text};
use crate::command::{Command, Flag, Refusal};
use crate::fleet::{HostName, Label};

const LABEL: Flag = Flag {
    name: "label",
    about: "label as in group=canary; without a value the label is removed; can be set multiple times",
    takes: Takes::Text,
};

pub(in crate::command) const VERB: Verb = Verb {
    name: "host",
    about: "list, label, hold, release or retire hosts: host ACTION [HOST]",
    flags: &[
            text("action", "list, label, hold, release or retire"),
            text("after", "with list: only hosts whose names come after this name"),
            HOST,
            JSON,
            LABEL,
            number("limit", "with list: maximum number of hosts to show"),
            text("m", "with hold: the reason"),
            switch("retired", "with list: show retired hosts, too"),
        ],
    examples: &[
            "host list",
            "host label web-01 group=canary",
            "host hold web-01 -m \"disk is being replaced\"",
            "host release web-01",
            "host retire web-01",
        ],
    changes: true,
    reads_input: false,
};

/// The action of `host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAction {
    /// Shows hosts.
    List {
        /// If given, show only names after this name.
        after: Option<HostName>,
        /// Maximum number of hosts to show; `None` shows all.
        limit: Option<u64>,
        /// Whether to also show retired hosts.
        retired: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Sets the labels with a value, and removes the labels without a value.
    Label(HostName, Vec<(Label, Option<Label>)>),
    /// Holds the host: its agents deploy nothing new. The text says why.
    Hold(HostName, String),
    /// Ends the hold.
    Release(HostName),
    /// Retires a host that will not return.
    Retire(HostName),
}

/// Turns the leading words into flags. The user may write the action, the host and the labels
/// without flags.
pub(in crate::command) fn with_flags(words: &[String]) -> Vec<String> {
    let bare = words.iter().take_while(|word| !word.starts_with('-')).count();
    let flags = words[..bare].iter().enumerate().map(|(place, word)| match place {
        0 => format!("-action={word}"),
        _ if word.contains('=') => format!("-label={word}"),
        _ => format!("-host={word}"),
    });
    flags.chain(words[bare..].iter().cloned()).collect()
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let action = match given.get("action") {
        "list" => HostAction::List {
            after: given.word("after")?,
            limit: given.number("limit")?,
            retired: given.is_set("retired"),
            json: given.is_set("json"),
        },
        "label" => {
            let labels = given.all("label").map(label).collect::<Result<Vec<_>, _>>()?;
            if labels.is_empty() {
                return Err(Refusal::usage("give a label, such as group=canary".to_owned()));
            }
            HostAction::Label(given.host()?, labels)
        }
        "hold" => {
            given.need(&["m"], "give the reason with -m")?;
            HostAction::Hold(given.host()?, given.get("m").to_owned())
        }
        "release" => HostAction::Release(given.host()?),
        "retire" => HostAction::Retire(given.host()?),
        _ => {
            let text = "missing or unknown action; use host list, label, hold, release or retire";
            return Err(Refusal::usage(text.to_owned()));
        }
    };
    Ok(Command::Host(action))
}

fn label(text: &str) -> Result<(Label, Option<Label>), Refusal> {
    let bad = |err: crate::fleet::host_name::BadName| Refusal::usage(err.to_string());
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let value = if value.is_empty() { None } else { Some(value.parse().map_err(bad)?) };
    Ok((name.parse().map_err(bad)?, value))
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Host(action) = command else { return };
    match action {
        HostAction::List { after, limit, retired, json } => {
            line.flag("action", "list");
            line.maybe("after", after.as_ref());
            line.maybe("limit", limit.as_ref());
            line.switch("retired", *retired);
            line.switch("json", *json);
        }
        HostAction::Label(host, labels) => {
            line.flag("action", "label");
            line.flag("host", host);
            for (name, value) in labels {
                let value = value.as_ref().map_or("", Label::as_str);
                line.flag("label", format!("{name}={value}"));
            }
        }
        HostAction::Hold(host, message) => {
            line.flag("action", "hold");
            line.flag("host", host);
            line.flag("m", message);
        }
        HostAction::Release(host) => {
            line.flag("action", "release");
            line.flag("host", host);
        }
        HostAction::Retire(host) => {
            line.flag("action", "retire");
            line.flag("host", host);
        }
    }
}
