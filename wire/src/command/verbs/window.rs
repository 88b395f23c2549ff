//! `window`: sets, lists or deletes the maintenance windows of groups.

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{JSON, Verb, text};
use crate::command::{Command, Refusal};
use crate::fleet::Label;

pub(in crate::command) const VERB: Verb = Verb {
    name: "window",
    about: "set, list or delete the maintenance windows of groups: window ACTION [GROUP]",
    flags: &[
            text("action", "set, list or delete"),
            text("group", "group of hosts"),
            JSON,
            text("times", "with set: windows as in 'Sat,Sun 02:00-05:00 Europe/Berlin', separated by ;"),
        ],
    examples: &[
        "window set production -times \"Mon-Fri 22:00-06:00 UTC\"",
        "window list",
        "window delete production",
    ],
    changes: true,
    reads_input: false,
};

/// The action of `window`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowAction {
    /// Hosts of the group switch to a new configuration only in these windows. A host's first
    /// deploy does not wait for a window. The registry checks the text.
    Set(Label, String),
    /// Shows the windows of all groups.
    List {
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Deletes the windows, so that hosts of the group may switch at any time.
    Delete(Label),
}

/// Turns the leading words, which are the action and the group, into flags.
pub(in crate::command) fn with_flags(words: &[String]) -> Vec<String> {
    let bare = words.iter().take_while(|word| !word.starts_with('-')).count();
    let flags = words[..bare].iter().enumerate().map(|(place, word)| match place {
        0 => format!("-action={word}"),
        1 => format!("-group={word}"),
        _ => word.clone(),
    });
    flags.chain(words[bare..].iter().cloned()).collect()
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let group = || {
        let none = || Refusal::usage("give the group".to_owned());
        given.word("group")?.ok_or_else(none)
    };
    let action = match given.get("action") {
        "set" => {
            given.need(&["times"], "give the windows with -times")?;
            WindowAction::Set(group()?, given.get("times").to_owned())
        }
        "list" => WindowAction::List { json: given.is_set("json") },
        "delete" => WindowAction::Delete(group()?),
        _ => {
            let text = "missing or unknown action; use window set, list or delete";
            return Err(Refusal::usage(text.to_owned()));
        }
    };
    Ok(Command::Window(action))
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Window(action) = command else { return };
    match action {
        WindowAction::Set(group, times) => {
            line.flag("action", "set");
            line.flag("group", group);
            line.flag("times", times);
        }
        WindowAction::List { json } => {
            line.flag("action", "list");
            line.switch("json", *json);
        }
        WindowAction::Delete(group) => {
            line.flag("action", "delete");
            line.flag("group", group);
        }
    }
}
