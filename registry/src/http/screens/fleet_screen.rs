//! `/`: what needs attention, the active rollouts, and the configurations.

use maud::html;

use super::layout::{Nav, Page, Part};
use super::widgets::{nothing, section};
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_status::FleetQuery;

/// The first screen.
pub async fn page(registry: &Registry, _may_act: bool) -> Result<Page, Problem> {
    let fleet = registry.fleet_status(&FleetQuery::default()).await?;
    let table = html! {
        table {
            @for one in &fleet.configurations {
                tr { td { (one.configuration) } td { (one.state) } td { (one.done) "/" (one.hosts) } }
            }
        }
    };
    Ok(Page::new(
        "Fleet",
        Nav::Fleet,
        vec![Part::One(section("configurations", "Configurations", &nothing(), &table))],
    ))
}
