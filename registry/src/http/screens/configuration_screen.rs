//! Renders `/configurations/NAME`, which shows the layers, hosts and history of one configuration.

mod configuration_head;
mod configuration_settings;
mod layer_list;
mod running_groups;
mod state_history;

use deploy_store::ConfigurationName;
use jiff::Timestamp;

use self::configuration_head::Head;
use super::layout::{Nav, Page, Part};
use crate::error::Error;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_status::FleetQuery;

/// Renders the screen.
pub async fn page(
    registry: &Registry,
    name: &ConfigurationName,
    before: Option<u64>,
    may_act: bool,
) -> Result<Page, Problem> {
    let catalog = &registry.catalog;
    let (number, configuration, layers) = catalog.current_layers(name).await?;
    let query = FleetQuery { name: Some(name.clone()), ..FleetQuery::default() };
    let fleet = registry.fleet_status(&query).await?;
    let status = fleet.configurations.first().ok_or_else(Problem::not_found)?;
    let history = catalog.state_page(name, before, state_history::PAGE).await?;
    let back_to = match catalog.rollback_target(name).await {
        Ok(number) => Some(number),
        Err(Error::NotFound(_)) => None,
        Err(err) => return Err(err.into()),
    };
    let frozen = catalog.frozen(name, Timestamp::now()).await?;
    let policies = catalog.policies().await?;
    let policy = policies.iter().find(|one| one.used_by.iter().any(|user| user == name.as_str()));
    let windows = catalog.windows().await?;
    let groups = running_groups::of(&fleet.hosts);
    // During a freeze or an active rollout, the registry refuses a rollback without further flags.
    let is_open = frozen.is_none() && status.rollout.is_none();
    let back_to = back_to.filter(|_| is_open);
    let head = Head { name, status, frozen: frozen.as_ref(), back_to, may_act };
    let parts = vec![
        Part::One(configuration_head::section(&head)),
        Part::Columns(vec![
            layer_list::section(number, &configuration, &layers),
            running_groups::section(name, &groups),
        ]),
        Part::One(state_history::section(name, &history, before, may_act && is_open)),
        Part::One(configuration_settings::section(policy, frozen.as_ref(), &windows, &groups)),
    ];
    Ok(Page::new(name.to_string(), Nav::Configurations, parts))
}
