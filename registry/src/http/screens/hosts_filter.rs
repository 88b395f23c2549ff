//! Renders the form and the links that choose which hosts a list shows.

use deploy_wire::fleet::Phase;
use maud::{Markup, html};

use super::HostsFilter;
use super::need::spaced;
use super::widgets::address;
use crate::fleet::convergence::Part;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;

/// The form offers at most this many groups, and at most this many configurations.
const OFFERED: u64 = 200;

/// The form, with the values of `filter`. `with_names` adds fields for the configuration and for
/// the host.
pub async fn read(
    registry: &Registry,
    filter: &HostsFilter,
    with_names: bool,
) -> Result<Markup, Problem> {
    let groups = registry.catalog.groups(OFFERED).await?;
    let mut names = None;
    if with_names {
        let all = registry.catalog.configuration_names(None, OFFERED).await?;
        names = Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    Ok(form(filter, &groups, names.as_deref()))
}

fn form(filter: &HostsFilter, groups: &[String], names: Option<&[String]>) -> Markup {
    let group = filter.group.as_ref().map(ToString::to_string).unwrap_or_default();
    let phases: Vec<String> = Phase::ALL.iter().map(|phase| phase.word().to_owned()).collect();
    let phase = filter.phase.map(Phase::word).unwrap_or_default();
    let name = filter.name.as_ref().map(ToString::to_string).unwrap_or_default();
    html! {
        form class="filter" action="/hosts" method="get" {
            label { "Group " select name="group" { (options(groups, &group)) } }
            label { "Phase " select name="phase" { (options(&phases, phase)) } }
            label {
                input type="checkbox" name="behind" value="1" checked[filter.behind];
                " behind"
            }
            @if let Some(names) = names {
                label { "Configuration " select name="name" { (options(names, &name)) } }
                label {
                    "Host "
                    input type="search" name="host" data-filter="list" size="14"
                        autocomplete="off" value=[filter.host.as_ref()];
                }
            }
            button { "Show hosts" }
        }
    }
}

/// The options of a list. The chosen value is an option even if `values` does not contain it.
fn options(values: &[String], chosen: &str) -> Markup {
    let is_new = !chosen.is_empty() && !values.iter().any(|value| value == chosen);
    html! {
        option value="" { "all" }
        @for value in values {
            option value=(value) selected[value == chosen] { (spaced(value)) }
        }
        @if is_new { option value=(chosen) selected { (chosen) } }
    }
}

/// Links to lists of all hosts, of hosts that are behind, of failed hosts, and so on. Each link has
/// the number of its hosts, and keeps the configuration and the group of `filter`.
pub fn chips(filter: &HostsFilter, counts: &[ConfigurationStatus]) -> Markup {
    let sum = |count: fn(&ConfigurationStatus) -> u64| counts.iter().map(count).sum::<u64>();
    let all = sum(|of| of.hosts + of.unknown);
    let is_all = !filter.behind && filter.only.is_none() && filter.phase.is_none();
    let only = |part: Part| filter.only == Some(part);
    let chips = [
        ("", "", all, "in all", is_all),
        ("behind", "1", sum(|of| of.behind), "behind", filter.behind),
        ("only", "working", sum(working), "working", only(Part::Working)),
        ("only", "failed", sum(|of| of.failed), "failed", only(Part::Failed)),
        ("only", "absent", sum(|of| of.absent), "absent", only(Part::Absent)),
        ("only", "held", sum(|of| of.held), "held", only(Part::Held)),
        ("phase", "unknown", sum(|of| of.unknown), "unknown", filter.phase == Some(Phase::Unknown)),
    ];
    html! {
        div class="chips" {
            @for (field, value, number, word, is_chosen) in chips {
                @if number > 0 || is_chosen || field.is_empty() {
                    a href=(list(filter, field, value)) aria-current=[is_chosen.then_some("true")] {
                        (number) " " (word)
                    }
                }
            }
        }
    }
}

/// The number of connected hosts whose deploys have no result yet.
fn working(of: &ConfigurationStatus) -> u64 {
    of.behind - of.failed - of.absent
}

fn list(filter: &HostsFilter, field: &str, value: &str) -> String {
    let name = filter.name.as_ref().map(ToString::to_string).unwrap_or_default();
    let group = filter.group.as_ref().map(ToString::to_string).unwrap_or_default();
    address("/hosts", &[("name", &name), ("group", &group), (field, value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_keeps_what_was_chosen() {
        let filter = HostsFilter {
            group: Some("canary".parse().unwrap()),
            phase: Some(Phase::RolledBack),
            name: Some("a&b".parse().unwrap()),
            behind: true,
            ..HostsFilter::default()
        };
        let html = form(&filter, &["eu".to_owned()], Some(&["a&b".to_owned()])).into_string();
        for text in [
            "<option value=\"canary\" selected>canary</option>",
            "<option value=\"rolled_back\" selected>rolled back</option>",
            "<option value=\"a&amp;b\" selected>a&amp;b</option>",
            "value=\"1\" checked",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
        assert!(!form(&filter, &[], None).into_string().contains("name=\"name\""));
    }

    #[test]
    fn links_keep_the_configuration_and_the_group() {
        let filter = HostsFilter {
            name: Some("web".parse().unwrap()),
            group: Some("eu".parse().unwrap()),
            ..HostsFilter::default()
        };
        let html = chips(&filter, &[]).into_string();
        assert!(
            html.contains("href=\"/hosts?name=web&amp;group=eu\" aria-current=\"true\">0 in all")
        );
        assert!(!html.contains("failed"), "{html}");
    }
}
