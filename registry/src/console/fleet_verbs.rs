//! Runs the verbs of the fleet: `fleet`, `why`, `wait`, `events`, `host`, `retry`, `freeze`,
//! `window` and `metrics`.

use std::sync::Arc;

use deploy_store::Meter;
use deploy_wire::command::{Command, HostAction, Refusal, WindowAction};
use jiff::Timestamp;

use super::Done;
use super::fleet_text as text;
use super::print::document;
use super::{rollout_verbs, wait_answer};
use crate::catalog::Change;
use crate::registry::Registry;
use crate::verbs::fleet_status::FleetQuery;

/// Without `-limit`, `events` shows at most this many events.
const EVENTS: u64 = 100;

/// Runs one of the verbs of the fleet.
pub async fn execute(
    registry: &Registry,
    command: &Command,
    change: &Change,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    match command {
        Command::Fleet { name, group, phase, behind, after, limit, json } => {
            let query = FleetQuery {
                name: name.clone(),
                group: group.clone(),
                phase: *phase,
                behind: *behind,
                after: after.clone(),
                limit: *limit,
                ..FleetQuery::default()
            };
            let fleet = registry.fleet_status(&query).await?;
            let text = if *json { document(&fleet)? } else { text::fleet(&fleet, &query) };
            Ok(Done::from(text))
        }
        Command::Why { host, name, json } => {
            let why = registry.why(host, name.as_ref()).await?;
            Ok(Done::from(if *json { document(&why)? } else { text::why(&why) }))
        }
        Command::Wait(wait) => {
            let waited = registry.wait_for(wait, meter).await?;
            wait_answer::ended(&wait.name, &waited, wait.json)
        }
        Command::Events { name, since, limit, follow: _, json } => {
            let (after, limit) = (since.unwrap_or(0), limit.unwrap_or(EVENTS));
            let events = registry.catalog.newest_events(name.as_ref(), after, limit).await?;
            let line = |event| if *json { text::event_json(event) } else { text::event(event) };
            Ok(Done::from(events.iter().map(line).collect::<String>()))
        }
        Command::Host(action) => host(registry, action, change).await,
        Command::Retry { name, host } => {
            let asked = registry.catalog.retry(name.as_ref(), host.as_ref(), change).await?;
            for (host, name) in &asked {
                rollout_verbs::retry(registry, host, name, change).await?;
                registry.fleet.agent_changed(host, name);
            }
            Ok(Done::from(text::asked(&asked)))
        }
        Command::Freeze { name, until: None } => {
            registry.catalog.unfreeze(name, change).await?;
            Ok(Done::from(format!("configuration \"{name}\" may be changed again\n")))
        }
        Command::Freeze { name, until: Some((time, message)) } => {
            let end = change.now.checked_add(*time).unwrap_or(Timestamp::MAX);
            registry.catalog.freeze(name, message, end, change).await?;
            Ok(Done::from(format!("configuration \"{name}\" is frozen until {end:.0}\n")))
        }
        Command::Window(action) => window(registry, action, change).await,
        Command::Metrics {} => Ok(Done::from(registry.metrics().await?)),
        _ => unreachable!("`console` runs the other verbs"),
    }
}

async fn host(registry: &Registry, action: &HostAction, change: &Change) -> Result<Done, Refusal> {
    let (catalog, fleet) = (&registry.catalog, &registry.fleet);
    let (host, names) = match action {
        HostAction::List { after, limit, retired, json } => {
            let limit = limit.unwrap_or(u64::MAX);
            let hosts = catalog.hosts(after.as_ref(), limit, *retired).await?;
            let text = if *json { text::hosts_json(&hosts)? } else { text::hosts(&hosts) };
            return Ok(Done::from(text));
        }
        HostAction::Label(host, labels) => {
            let before = catalog.host(host).await?;
            catalog.label_host(host, labels, change).await?;
            let after = catalog.host(host).await?;
            let groups = [before.group(), after.group()];
            // The new group may have other maintenance windows.
            let has_windows = groups.iter().any(|group| fleet.maintenance.of(group).is_some());
            if groups[0] == groups[1] || !has_windows {
                return Ok(Done::from(String::new()));
            }
            let agents = catalog.agents_of(after.number).await?;
            (host, agents.into_iter().map(|agent| agent.configuration).collect())
        }
        HostAction::Hold(host, message) => (host, catalog.hold_host(host, message, change).await?),
        HostAction::Release(host) => (host, catalog.release_host(host, change).await?),
        HostAction::Retire(host) => (host, catalog.retire_host(host, change).await?),
    };
    fleet.host_changed(host, &names).await?;
    Ok(Done::from(String::new()))
}

async fn window(
    registry: &Registry,
    action: &WindowAction,
    change: &Change,
) -> Result<Done, Refusal> {
    let catalog = &registry.catalog;
    match action {
        WindowAction::Set(group, times) => catalog.set_windows(group, times, change).await?,
        WindowAction::Delete(group) => catalog.delete_windows(group, change).await?,
        WindowAction::List { json } => {
            let all = catalog.windows().await?;
            let now = Timestamp::now();
            let text =
                if *json { text::windows_json(&all, now)? } else { text::windows(&all, now) };
            return Ok(Done::from(text));
        }
    }
    registry.fleet.reload_windows().await?;
    Ok(Done::from(String::new()))
}
