//! Runs the verbs that change configurations. Most of these verbs print how to undo the change.

use std::sync::Arc;

use deploy_store::{ConfigurationName, Layer, Meter};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;

use super::{Done, rollout_text, rollout_verbs, upkeep, wait_answer};
use crate::caller::{Caller, Client};
use crate::catalog::Change;
use crate::registry::Registry;
use crate::verbs::state_diff;

/// Runs one of the verbs that change configurations.
pub async fn execute(
    registry: &Registry,
    caller: &Caller,
    command: &Command,
    change: &Change,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let catalog = &registry.catalog;
    let (name, options, said) = match command {
        Command::AddConfiguration { name, layers, replace, options } => {
            let replace =
                *replace || registry.settings.addconf_replaces || caller.client == Client::Go;
            registry.check_here(layers).await?;
            let before = catalog.add_configuration(name, layers, replace, change).await?;
            let hint = before.map(|number| back_to(caller.client, name, number));
            (name, options, hint.unwrap_or_default())
        }
        Command::ChangeConfiguration { name, changes, if_hash, options } => {
            registry.check_here(changes).await?;
            let if_hash = if_hash.clone();
            let replaced = catalog.change_configuration(name, changes, if_hash, change).await?;
            (name, options, roll_back_hint(caller, name.as_str(), &replaced))
        }
        Command::BumpConfiguration { name, components, if_hash, options } => {
            let if_hash = if_hash.clone();
            match catalog.bump_configuration(name, components, if_hash, change).await? {
                Some(replaced) => (name, options, roll_back_hint(caller, name.as_str(), &replaced)),
                None => {
                    let said = up_to_date(caller, name);
                    return wait_answer::after(registry, name, options, None, said, meter).await;
                }
            }
        }
        Command::Promote { from, to, if_hash, options } => {
            let before = catalog.promote(from, to, if_hash.as_ref(), change).await?;
            let hint = before.map(|number| back_to(caller.client, to, number));
            (to, options, hint.unwrap_or_default())
        }
        Command::DeleteConfiguration { name, force, overrides: _ } => {
            if !force {
                let text = "Run command with -force flag to confirm removal";
                return Err(Refusal::new(exit::FAILED, text));
            }
            catalog.delete_configuration(name, change).await?;
            return Ok(Done::from(String::new()));
        }
        Command::Rollback { name, to, options } => {
            let done = catalog.roll_back(name, *to, change).await?;
            let (layers, reordered) = state_diff::layers(&done.from, &done.to);
            let number = done.number;
            let text = format!("configuration \"{name}\" has the layers of state {number} again\n");
            (name, options, text + &upkeep::layers_text(&layers, reordered))
        }
        _ => unreachable!("`execute` runs the other verbs"),
    };
    let rollout = match rollout_verbs::started(registry, name, change).await {
        Ok(rollout) => rollout,
        Err(refusal) => return Err(Refusal { text: said + &refusal.text, ..refusal }),
    };
    let said = match &rollout {
        Some(status) => rollout_text::started(status, caller.client),
        None => said,
    };
    wait_answer::after(registry, name, options, rollout.as_ref(), said, meter).await
}

/// The answer to a bump that changes nothing. The answer to the Go tool's client is empty, because
/// scripts for the Go tool read each line as a hint about how to undo the change.
fn up_to_date(caller: &Caller, name: &ConfigurationName) -> String {
    match caller.client {
        Client::Go => String::new(),
        _ => format!("configuration \"{name}\" is up to date; nothing was changed\n"),
    }
}

/// A hint with the command that restores the state `number`. The user can paste the command.
pub fn back_to(client: Client, name: &ConfigurationName, number: u64) -> String {
    let name = command::quote_always(name.as_str());
    let line = client.typed(&format!("rollback -name={name} -to={number}"));
    format!("to roll back run:\n\t{line}\n")
}

/// A hint with the command that undoes a change. The user can paste the command.
fn roll_back_hint(caller: &Caller, name: &str, replaced: &[Layer]) -> String {
    if replaced.is_empty() {
        return String::new();
    }
    let mut line = format!("changeconf -name={}", command::quote_always(name));
    for layer in replaced {
        line = line
            + " -component="
            + &command::quote_always(layer.component.as_str())
            + " -version="
            + &command::quote_always(layer.version.as_str());
    }
    format!("to roll back run:\n\t{}\n", caller.client.typed(&line))
}
