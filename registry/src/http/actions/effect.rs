//! Describes what a command changes and which hosts it reaches, and writes the text of the
//! confirmation's button.

use deploy_store::{ComponentName, Configuration, ConfigurationName, VersionName};
use deploy_wire::command::{ChangeOptions, Command, HostAction, RolloutAction};
use deploy_wire::fleet::HostName;

use super::described_effect::{Effect, Effects};
use super::rollout_effect;
use crate::http::problem::Problem;
use crate::http::screens::layout::ConfirmForm;
use crate::http::screens::widgets::{
    component_address, configuration_address, count, host_address, size,
};
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;
use crate::verbs::fleet_status::FleetQuery;
use crate::verbs::state_diff::{LayerChange, layers};

/// The title and the form of the page that confirms `command`. `line` is the command line.
pub async fn effect(
    registry: &Registry,
    line: String,
    command: &Command,
) -> Result<(String, ConfirmForm), Problem> {
    let Effect { title, effects, button, is_danger, message } = of(registry, command).await?;
    let back = back(command);
    Ok((title, ConfirmForm { line, effects, button, is_danger, back, message }))
}

async fn of(registry: &Registry, command: &Command) -> Result<Effect, Problem> {
    match command {
        Command::ChangeConfiguration { name, changes, options, .. } => {
            change(registry, name, changes, options).await
        }
        Command::BumpConfiguration { name, components, options, .. } => {
            let mut changes = Vec::new();
            for component in components {
                let newest = registry.catalog.newest_versions(component, None, 1).await?;
                changes.extend(newest.into_iter().map(|layer| (component.clone(), layer.version)));
            }
            change(registry, name, &changes, options).await
        }
        Command::Rollback { name, to, options } => roll_back(registry, name, *to, options).await,
        Command::Promote { from, to, options, .. } => promote(registry, from, to, options).await,
        Command::Rollout(action) => rollout_effect::of(registry, action).await,
        Command::Retry { name, host } => retry(registry, name.as_ref(), host.as_ref()).await,
        Command::Host(action) => host(registry, action).await,
        Command::Freeze { name, until } => {
            Ok(freeze(name, until.as_ref().map(|(time, _)| time.as_secs())))
        }
        Command::Pin { component, version, .. } => Ok(Effect {
            title: format!("Pin {component} {version}"),
            effects: vec![(
                format!("{component} {version}"),
                "stays until somebody unpins it, even if nothing refers to it.".to_owned(),
            )],
            button: "Pin it".to_owned(),
            message: Some(("Why", false)),
            ..Effect::default()
        }),
        Command::Unpin { component, version } => Ok(Effect {
            title: format!("Unpin {component} {version}"),
            effects: vec![(
                format!("{component} {version}"),
                "may be deleted by gc when nothing else needs it.".to_owned(),
            )],
            button: "Unpin it".to_owned(),
            ..Effect::default()
        }),
        _ => Err(Problem::not_found()),
    }
}

/// The numbers of a configuration's hosts in each status.
async fn counts(
    registry: &Registry,
    name: &ConfigurationName,
) -> Result<ConfigurationStatus, Problem> {
    let query = FleetQuery { name: Some(name.clone()), limit: Some(0), ..FleetQuery::default() };
    let fleet = registry.fleet_status(&query).await?;
    fleet.configurations.into_iter().next().ok_or_else(Problem::not_found)
}

/// Describes how a change reaches the hosts. Returns the sentences, and the part of the button's
/// text after the colon.
async fn reach(
    registry: &Registry,
    name: &ConfigurationName,
    changes: &[(ComponentName, VersionName)],
    options: &ChangeOptions,
) -> Result<(Effects, String), Problem> {
    let hosts = counts(registry, name).await?;
    let all = count(hosts.hosts + hosts.unknown, "host");
    let has_policy = registry.catalog.has_policy(name).await?;
    if options.rolling.at_once || (options.rolling.rules.is_empty() && !has_policy) {
        let connected = hosts.hosts - hosts.held;
        let mut effects = vec![(
            count(connected, "host"),
            "will be offered the change: connected hosts immediately, the others when they \
             connect again."
                .to_owned(),
        )];
        if hosts.held > 0 {
            effects
                .push((count(hosts.held, "host"), "will not change because of a hold.".to_owned()));
        }
        if hosts.unknown > 0 {
            let rest = "will get the change at the next poll: the agent only polls.".to_owned();
            effects.push((count(hosts.unknown, "host"), rest));
        }
        return Ok((effects, format!("{all} together")));
    }
    let plan = registry.planned(name, changes, &options.rolling).await?;
    let mut effects: Effects = (1..)
        .zip(&plan.waves)
        .map(|(number, wave)| {
            let hosts = count(wave.hosts.len() as u64, "host");
            (format!("wave {number}"), format!("{hosts} ({})", wave.selector))
        })
        .collect();
    let halt = format!(
        "allows {}. One more failure halts the rollout.",
        count(plan.budget, "failed host")
    );
    effects.push(("the rollout".to_owned(), halt));
    let left_out = [(&plan.absent, "absent"), (&plan.held, "held"), (&plan.duplicate, "duplicate")];
    for (hosts, what) in left_out.iter().filter(|(hosts, _)| !hosts.is_empty()) {
        let number = hosts.len() as u64;
        effects.push((count(number, "host"), format!("will be in no wave ({what}).")));
    }
    if !plan.halt.is_empty() {
        effects.push(("the rollout would halt".to_owned(), plan.halt.clone()));
    }
    Ok((effects, format!("{all} in {}", count(plan.waves.len() as u64, "wave"))))
}

/// One sentence for each layer that changes.
fn layer_effects(changes: &[LayerChange]) -> Effects {
    let version = |of: &Option<(VersionName, _)>| {
        of.as_ref().map_or("none".to_owned(), |(version, _)| version.to_string())
    };
    let one = |change: &LayerChange| {
        let (from, to) = (version(&change.from), version(&change.to));
        let rest =
            if from == to { format!("{to}, uploaded again") } else { format!("{from} → {to}") };
        (change.component.to_string(), rest)
    };
    changes.iter().map(one).collect()
}

async fn change(
    registry: &Registry,
    name: &ConfigurationName,
    changes: &[(ComponentName, VersionName)],
    options: &ChangeOptions,
) -> Result<Effect, Problem> {
    let now = registry.catalog.configuration(name).await?;
    let mut new = now.layers().to_vec();
    let mut bytes = 0;
    for (component, version) in changes {
        let layer = registry.catalog.version(component, version).await?;
        if !now.layers().iter().any(|old| old.digest == layer.digest) {
            bytes += registry.blobs().size(layer.digest).await?.unwrap_or(0);
        }
        match new.iter_mut().find(|old| old.component == *component) {
            Some(old) => *old = layer,
            None => {
                let text = format!("configuration \"{name}\" has no layer \"{component}\"");
                return Err(crate::error::Error::NotFound(text).into());
            }
        }
    }
    let target = Configuration::new(name.clone(), new, now.modified())
        .map_err(|err| Problem::from(crate::error::Error::from(err)))?;
    let mut effects = layer_effects(&layers(&now, &target).0);
    if effects.is_empty() {
        effects.push(("nothing".to_owned(), "changes: all versions are current.".to_owned()));
    }
    let (reaching, button) = reach(registry, name, changes, options).await?;
    effects.extend(reaching);
    let download = "is the size of the download for a host that has none of the new layers.";
    effects.push((size(bytes), download.to_owned()));
    Ok(Effect {
        title: format!("Change {name}"),
        effects,
        button: format!("Change: {button}"),
        ..Effect::default()
    })
}

async fn roll_back(
    registry: &Registry,
    name: &ConfigurationName,
    to: Option<u64>,
    options: &ChangeOptions,
) -> Result<Effect, Problem> {
    let to = match to {
        Some(number) => number,
        None => registry.catalog.rollback_target(name).await?,
    };
    let now = registry.catalog.configuration(name).await?;
    let target = registry.catalog.state(name, to).await?;
    let mut effects = layer_effects(&layers(&now, &target).0);
    let changes: Vec<(ComponentName, VersionName)> = target
        .layers()
        .iter()
        .map(|layer| (layer.component.clone(), layer.version.clone()))
        .collect();
    let (reaching, button) = reach(registry, name, &changes, options).await?;
    effects.extend(reaching);
    let rest = format!("gets the layers of state {to}, and becomes the current state.");
    effects.push(("a new state".to_owned(), rest));
    Ok(Effect {
        title: format!("Roll {name} back to state {to}"),
        effects,
        button: format!("Roll back to {to}: {button}"),
        is_danger: true,
        ..Effect::default()
    })
}

async fn promote(
    registry: &Registry,
    from: &ConfigurationName,
    to: &ConfigurationName,
    options: &ChangeOptions,
) -> Result<Effect, Problem> {
    let source = registry.catalog.configuration(from).await?;
    let target = registry.catalog.configuration(to).await?;
    let mut effects = layer_effects(&layers(&target, &source).0);
    let (reaching, button) = reach(registry, to, &[], options).await?;
    effects.extend(reaching);
    Ok(Effect {
        title: format!("Give {to} the layers of {from}"),
        effects,
        button: format!("Promote: {button}"),
        ..Effect::default()
    })
}

async fn retry(
    registry: &Registry,
    name: Option<&ConfigurationName>,
    host: Option<&HostName>,
) -> Result<Effect, Problem> {
    let of = name.map_or("all configurations".to_owned(), ToString::to_string);
    let (title, button, subject) = match host {
        Some(host) => {
            (format!("Retry on {host}"), format!("Retry on {host}"), host.as_str().to_owned())
        }
        None => {
            let query = FleetQuery { name: name.cloned(), limit: Some(0), ..FleetQuery::default() };
            let fleet = registry.fleet_status(&query).await?;
            let failed = fleet.configurations.iter().map(|one| one.failed).sum();
            let hosts = count(failed, "failed host");
            (format!("Retry {hosts} of {of}"), format!("Retry {hosts}"), hosts)
        }
    };
    let rest = format!("will deploy {of} again, as soon as the registry can reach the agent.");
    let effects = vec![(subject, rest)];
    Ok(Effect { title, effects, button, ..Effect::default() })
}

async fn host(registry: &Registry, action: &HostAction) -> Result<Effect, Problem> {
    let say = |host: &HostName, verb: &str, rest: &str, button: String| Effect {
        title: format!("{verb} {host}"),
        effects: vec![(host.to_string(), rest.to_owned())],
        button,
        ..Effect::default()
    };
    Ok(match action {
        HostAction::List { .. } => return Err(Problem::not_found()),
        HostAction::Label(host, labels) => {
            registry.catalog.host(host).await?;
            let one = |(name, value): &(deploy_wire::fleet::Label, Option<_>)| match value {
                Some(value) => format!("gets the label {name}={value}."),
                None => format!("loses the label {name}."),
            };
            let rest = labels.iter().map(one).collect::<Vec<_>>().join(" ");
            say(host, "Label", &rest, format!("Label {host}"))
        }
        HostAction::Hold(host, _) => {
            registry.catalog.host(host).await?;
            let rest = "keeps the states that it runs, and deploys no other state until you \
                        release the host.";
            let effect = say(host, "Hold", rest, format!("Hold {host}"));
            Effect { message: Some(("Why", true)), ..effect }
        }
        HostAction::Release(host) => {
            registry.catalog.host(host).await?;
            let rest = "may deploy other states again.";
            say(host, "Release", rest, format!("Release {host}"))
        }
        HostAction::Retire(host) => {
            registry.catalog.host(host).await?;
            let rest = "no longer counts as a host. If it reports again, it counts again.";
            Effect { is_danger: true, ..say(host, "Retire", rest, format!("Retire {host}")) }
        }
    })
}

fn freeze(name: &ConfigurationName, seconds: Option<u64>) -> Effect {
    match seconds {
        None => Effect {
            title: format!("End the freeze of {name}"),
            effects: vec![(name.to_string(), "accepts changes again.".to_owned())],
            button: "End the freeze".to_owned(),
            ..Effect::default()
        },
        Some(seconds) => {
            let time = whole_units(seconds);
            let rest =
                format!("refuses changes for {time}. Changes with -override are still possible.");
            Effect {
                title: format!("Freeze {name}"),
                effects: vec![(name.to_string(), rest)],
                button: format!("Freeze for {time}"),
                message: Some(("Why", true)),
                ..Effect::default()
            }
        }
    }
}

/// A duration in the largest unit that expresses it exactly.
fn whole_units(seconds: u64) -> String {
    match seconds {
        _ if seconds.is_multiple_of(3600) => count(seconds / 3600, "hour"),
        _ if seconds.is_multiple_of(60) => count(seconds / 60, "minute"),
        _ => count(seconds, "second"),
    }
}

/// The address of the screen that shows what the command changes.
pub fn back(command: &Command) -> String {
    match command {
        Command::ChangeConfiguration { name, .. }
        | Command::BumpConfiguration { name, .. }
        | Command::Rollback { name, .. }
        | Command::Promote { to: name, .. }
        | Command::Retry { name: Some(name), host: None }
        | Command::Freeze { name, .. } => configuration_address(name.as_str()),
        Command::Host(
            HostAction::Label(host, _)
            | HostAction::Hold(host, _)
            | HostAction::Release(host)
            | HostAction::Retire(host),
        )
        | Command::Retry { host: Some(host), .. } => host_address(host.as_str()),
        Command::Rollout(
            RolloutAction::Start { name, .. }
            | RolloutAction::Pause(name, _)
            | RolloutAction::Resume { name, .. }
            | RolloutAction::Abort(name, _)
            | RolloutAction::SkipSoak(name)
            | RolloutAction::Mark(name, ..),
        ) => format!("/rollouts?name={name}"),
        Command::Pin { component, .. } | Command::Unpin { component, .. } => {
            component_address(component.as_str())
        }
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_of_a_freeze_is_never_rounded() {
        let words = whole_units;
        assert_eq!(words(7200), "2 hours");
        assert_eq!(words(90 * 60), "90 minutes");
        assert_eq!(words(30 * 60), "30 minutes");
        assert_eq!(words(61), "61 seconds");
    }
}
