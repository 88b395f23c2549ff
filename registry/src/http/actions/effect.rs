//! What a command would do: how many hosts it changes, and how.

use deploy_wire::command::{Command, HostAction, RolloutAction};

use crate::http::problem::Problem;
use crate::registry::Registry;

/// What a command would do.
#[derive(Debug)]
pub struct Effect {
    /// The title of the confirmation.
    pub title: String,
    /// Sentences about what will happen.
    pub lines: Vec<String>,
    /// The text on the button.
    pub button: String,
    /// Where `Cancel` leads.
    pub back: String,
    /// Whether the command takes a message.
    pub takes_message: bool,
}

/// What `command` would do now.
pub async fn effect(_registry: &Registry, command: &Command) -> Result<Effect, Problem> {
    let verb = command.verb().to_owned();
    Ok(Effect {
        title: verb.clone(),
        lines: Vec::new(),
        button: verb,
        back: back(command),
        takes_message: false,
    })
}

/// The screen of the thing that the command changes.
pub fn back(command: &Command) -> String {
    let of = |name: &dyn std::fmt::Display| format!("/configurations/{name}");
    match command {
        Command::ChangeConfiguration { name, .. }
        | Command::BumpConfiguration { name, .. }
        | Command::Rollback { name, .. }
        | Command::Freeze { name, .. } => of(name),
        Command::Promote { to, .. } => of(to),
        Command::Host(
            HostAction::Label(host, _)
            | HostAction::Hold(host, _)
            | HostAction::Release(host)
            | HostAction::Retire(host),
        )
        | Command::Retry { host: Some(host), .. } => format!("/hosts/{host}"),
        Command::Rollout(
            RolloutAction::Pause(name, _)
            | RolloutAction::Resume { name, .. }
            | RolloutAction::Abort(name, _)
            | RolloutAction::SkipSoak(name)
            | RolloutAction::Mark(name, ..),
        ) => of(name),
        Command::Pin { component, .. } | Command::Unpin { component, .. } => {
            format!("/components/{component}")
        }
        _ => "/".to_owned(),
    }
}
