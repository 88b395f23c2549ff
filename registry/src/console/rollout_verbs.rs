//! Runs the actions of the verb `rollout`.

use std::sync::Arc;

use deploy_rollout::{Command as Steer, Host, Limit};
use deploy_store::{ConfigurationName, Meter};
use deploy_wire::command::{ChangeOptions, Refusal, RolloutAction};

use super::print::document;
use super::{Done, rollout_text as text, wait_answer};
use crate::caller::Caller;
use crate::catalog::Change;
use crate::catalog::rollouts::RolloutView;
use crate::error::Error;
use crate::registry::Registry;
use crate::verbs::rollout_status::RolloutStatus;

/// Maximum length of an operator's reason, in characters.
const LONGEST: usize = 2000;
/// Without `-limit`, `rollout list` shows at most this many rollouts.
const LISTED: u64 = 20;

/// Runs an action of `rollout`.
pub async fn execute(
    registry: &Registry,
    caller: &Caller,
    action: &RolloutAction,
    change: &Change,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let catalog = &registry.catalog;
    match action {
        RolloutAction::Start { name, layers, if_hash, options, dry_run, json } => {
            registry.check_here(layers).await?;
            if *dry_run {
                let plan = registry.planned(name, layers, &options.rolling).await?;
                return Ok(Done::from(if *json { document(&plan)? } else { text::plan(&plan) }));
            }
            let mut change = change.clone();
            // If the command has no rules and the configuration has no policy, the command sets the
            // default rule for the waves, because a change without rules starts no rollout.
            if change.rolling.rules.is_empty() && !catalog.has_policy(name).await? {
                change.rolling.rules.waves = Some("100%".to_owned());
            }
            catalog.change_configuration(name, layers, if_hash.clone(), &change).await?;
            after_start(registry, caller, name, options, *json, &change, meter).await
        }
        RolloutAction::Status { name, number, json } => {
            let status = registry.rollout_status(name, *number).await?;
            Ok(Done::from(if *json { document(&status)? } else { text::status(&status) }))
        }
        RolloutAction::List { name, limit, json } => {
            let rows = catalog.rollouts(name.as_ref(), limit.unwrap_or(LISTED)).await?;
            Ok(Done::from(if *json { text::list_json(&rows)? } else { text::list_of(&rows) }))
        }
        RolloutAction::SetPolicy(policy, rules) => {
            let set = catalog.set_policy(policy, rules, change).await?;
            Ok(Done::from(text::policy(policy.as_str(), &set, &[])))
        }
        RolloutAction::Policies { json } => {
            let all = catalog.policies().await?;
            Ok(Done::from(if *json { text::policies_json(&all)? } else { text::policies(&all) }))
        }
        RolloutAction::UsePolicy(name, policy) => {
            catalog.use_policy(name, policy.as_ref(), change).await?;
            Ok(Done::from(String::new()))
        }
        RolloutAction::DeletePolicy(policy) => {
            catalog.delete_policy(policy, change).await?;
            Ok(Done::from(String::new()))
        }
        _ => steer(registry, action, change).await,
    }
}

/// A function that makes a [`Steer`] command. The argument is the list of the rollout's hosts.
type Steering = Box<dyn Fn(&[Host]) -> Result<Steer, Error> + Send + Sync>;

/// Runs one of the actions that steer the active rollout, and shows the rollout's status.
async fn steer(
    registry: &Registry,
    action: &RolloutAction,
    change: &Change,
) -> Result<Done, Refusal> {
    let (name, command): (_, Steering) = match action {
        RolloutAction::Pause(name, why) => {
            let why = said(why, "paused", change);
            (name, Box::new(move |_| Ok(Steer::Pause { why: why.clone() })))
        }
        RolloutAction::Resume { name, max_failed, max_absent } => {
            let (max_failed, max_absent) = (
                limit("max-failed", max_failed.as_deref())?,
                limit("max-absent", max_absent.as_deref())?,
            );
            (name, Box::new(move |_| Ok(Steer::Resume { max_failed, max_absent })))
        }
        RolloutAction::Abort(name, _) => (name, Box::new(|_| Ok(Steer::Abort))),
        RolloutAction::SkipSoak(name) => (name, Box::new(|_| Ok(Steer::SkipSoak))),
        RolloutAction::Mark(name, host, good) => {
            let (wanted, good) = (host.clone(), *good);
            (
                name,
                Box::new(move |hosts: &[Host]| {
                    let host = hosts.iter().find(|host| host.name == wanted);
                    let none = || Error::NotFound(format!("host \"{wanted}\" not found"));
                    Ok(Steer::Mark { host: host.ok_or_else(none)?.id, good })
                }),
            )
        }
        _ => unreachable!("`execute` runs the other actions"),
    };
    let command = |_: &RolloutView, hosts: &[Host]| command(hosts);
    registry.command_rollout(name, command, change).await?;
    let status = registry.rollout_status(name, None).await;
    Ok(Done::from(text::head(&status.map_err(wait_answer::made_but_unread)?)))
}

fn limit(flag: &str, text: Option<&str>) -> Result<Option<Limit>, Refusal> {
    let limit = text.map(str::parse).transpose();
    limit.map_err(|err: deploy_rollout::BadLimit| Refusal::usage(format!("-{flag}: {err}")))
}

/// If the host has failed in the active rollout of the configuration, gives the host another try in
/// this rollout.
pub async fn retry(
    registry: &Registry,
    host: &str,
    name: &str,
    change: &Change,
) -> Result<(), Refusal> {
    let name: ConfigurationName = name.parse().map_err(Error::from)?;
    let Some(row) = registry.catalog.last_rollout(&name).await? else { return Ok(()) };
    if row.ended.is_some() {
        return Ok(());
    }
    let command = |_: &RolloutView, hosts: &[Host]| {
        let found = hosts.iter().find(|one| one.name.as_str() == host);
        let none = || Error::NotFound(format!("host \"{host}\" not found"));
        Ok(Steer::Retry { host: found.ok_or_else(none)?.id })
    };
    match registry.command_rollout(&name, command, change).await {
        // With one of these errors, the rollout has no reason to try the host again: for example,
        // the host has not failed, or no wave has taken the host.
        Err(Error::Conflict(_) | Error::NotFound(_)) | Ok(_) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// The reason for a pause, of at most [`LONGEST`] characters.
fn said(why: &str, what: &str, change: &Change) -> String {
    let who = change.key.split_once(' ').map_or(&*change.user, |(_, comment)| comment);
    if why.is_empty() { format!("{what} by {who}") } else { why.chars().take(LONGEST).collect() }
}

/// The answer after a rollout has started. If `options` has the flag `-wait`, the function first
/// waits for the end of the rollout.
async fn after_start(
    registry: &Registry,
    caller: &Caller,
    name: &ConfigurationName,
    options: &ChangeOptions,
    json: bool,
    change: &Change,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let rollout = started(registry, name, change).await?;
    let wait =
        |said: String| wait_answer::after(registry, name, options, rollout.as_ref(), said, meter);
    let Some(status) = &rollout else { return wait(String::new()).await };
    if !json {
        return wait(text::started(status, caller.client)).await;
    }
    // The document shows the rollout after the wait.
    let waited = wait(String::new()).await;
    let code = waited.map_or_else(|refusal| refusal.code, |done| done.code);
    let status = registry.rollout_status(name, Some(status.number)).await;
    let status = status.map_err(wait_answer::made_but_unread)?;
    Ok(Done { stdout: document(&status)?, code })
}

/// Runs the first step of the rollout that the change has just started. Returns the status of the
/// rollout, or `None` if the change has started no rollout. If this function fails, the change stays
/// made, and the refusal says so.
pub async fn started(
    registry: &Registry,
    name: &ConfigurationName,
    change: &Change,
) -> Result<Option<RolloutStatus>, Refusal> {
    let status = first_step(registry, name, change).await;
    status.map_err(wait_answer::made_but_unread)
}

async fn first_step(
    registry: &Registry,
    name: &ConfigurationName,
    change: &Change,
) -> Result<Option<RolloutStatus>, Error> {
    let Some(view) = registry.catalog.rollout(name, None).await? else { return Ok(None) };
    if view.row.started != change.now {
        return Ok(None);
    }
    registry.try_step(name).await;
    Ok(Some(registry.rollout_status(name, Some(view.row.number)).await?))
}
