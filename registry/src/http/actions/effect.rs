//! What a command would do: how many hosts it changes, and how.

use deploy_wire::command::{Command, HostAction, RolloutAction};

use crate::http::problem::Problem;
use crate::http::screens::layout::ConfirmForm;
use crate::registry::Registry;

/// The title and the form of the confirmation of `command`.
pub async fn effect(
    _registry: &Registry,
    command: &Command,
) -> Result<(String, ConfirmForm), Problem> {
    let verb = command.verb().to_owned();
    let form = ConfirmForm {
        line: command.to_string(),
        effects: Vec::new(),
        button: verb.clone(),
        is_danger: false,
        back: back(command),
        message: None,
    };
    Ok((verb, form))
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
