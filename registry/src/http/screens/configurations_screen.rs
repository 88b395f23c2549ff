//! Renders `/configurations`, which lists all configurations.

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use super::layout::{Nav, Page, Part, Section};
use super::phrases::{host_counts, person, rollout_pill, verb_of};
use super::widgets::{
    address, ago, bar, configuration_address, count, nothing, rollout_address, section, table,
};
use crate::catalog::ConfigurationSummary;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;
use crate::verbs::fleet_status::FleetQuery;

/// A page shows at most this many configurations.
const PAGE: u64 = 200;
/// The list names at most this many layers of a configuration.
const LAYERS: u64 = 4;
/// The phases of hosts that work on a deploy.
const WORKING: [&str; 5] = ["offered", "fetched", "staged", "script", "checking"];

/// A configuration and the counts of its hosts.
type Row = (ConfigurationSummary, ConfigurationStatus);

/// Renders the screen.
pub async fn page(registry: &Registry, after: Option<&ConfigurationName>) -> Result<Page, Problem> {
    let mut page = registry.catalog.configuration_page(after, PAGE + 1, LAYERS).await?;
    let has_more = page.len() > as_usize(PAGE);
    page.truncate(as_usize(PAGE));
    let query = FleetQuery { limit: Some(0), ..FleetQuery::default() };
    let fleet = registry.fleet_status(&query).await?;
    let all = fleet.configurations.len() as u64;
    let mut status = fleet.configurations.into_iter().peekable();
    let mut rows: Vec<Row> = Vec::new();
    // Both lists are in byte order. A configuration that was just deleted or made may be in only
    // one of the lists.
    for summary in page {
        let is_before =
            |one: &ConfigurationStatus| one.configuration.as_str() < summary.name.as_str();
        while status.next_if(is_before).is_some() {}
        let found = status.next_if(|one| one.configuration == summary.name.as_str());
        rows.extend(found.map(|found| (summary, found)));
    }
    let title = html! {
        div class="title" {
            h1 { "Configurations" }
            p { "A configuration is a stack of layers that agents deploy." }
        }
    };
    let list = list(&rows, all, after.is_some(), has_more);
    Ok(Page::new("Configurations", Nav::Configurations, vec![Part::Fixed(title), Part::One(list)]))
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn list(rows: &[Row], all: u64, is_later: bool, has_more: bool) -> Section {
    let heading = if is_later { "More configurations" } else { "All configurations" };
    let beside = html! { p { (count(all, "configuration")) } };
    if rows.is_empty() && !is_later {
        return section("configurations", heading, &nothing(), &first_steps());
    }
    let head = html! {
        th scope="col" { "Configuration" }
        th scope="col" { "State" }
        th scope="col" class="hosts" { "Hosts" }
        th scope="col" class="wide" { "Last change" }
    };
    let body = html! { @for (summary, status) in rows { (row(summary, status)) } };
    let next = rows.last().filter(|_| has_more).map(|(summary, _)| summary.name.as_str());
    let below = html! {
        @if let Some(next) = next {
            span { (count(rows.len() as u64, "configuration")) " on this page" }
            a href=(address("/configurations", &[("after", next)])) { "more" }
        }
    };
    section("configurations", heading, &beside, &table("configurations", &head, &body, &below))
}

fn first_steps() -> Markup {
    html! {
        div class="card empty" {
            p { "There is no configuration yet. Upload an archive as a version, and make a "
                "configuration with this version:" }
            code class="shell" {
                "deployctl addver -name code -version v1 -dir build\n"
                "deployctl addconf -name web -layer code:v1"
            }
        }
    }
}

fn row(summary: &ConfigurationSummary, status: &ConfigurationStatus) -> Markup {
    let name = summary.name.as_str();
    html! {
        tr {
            th scope="row" {
                a href=(configuration_address(name)) { (summary.name) }
                small class="layers" { (layers(summary)) }
            }
            (state(name, status))
            td class="hosts" { (hosts(name, status)) }
            td class="wide keep" {
                (person(&summary.who)) " · " (verb_of(&summary.command))
                small { (ago(summary.modified)) }
            }
        }
    }
}

fn layers(summary: &ConfigurationSummary) -> String {
    let layers = summary.layers.iter().map(|(component, version)| format!("{component} {version}"));
    let mut texts: Vec<String> = layers.collect();
    let more = summary.count.saturating_sub(texts.len() as u64);
    if more > 0 {
        texts.push(count(more, "more layer"));
    }
    texts.join(" · ")
}

/// The number of the current state, or of the state that a rollout brings to the hosts.
fn state(name: &str, status: &ConfigurationStatus) -> Markup {
    html! {
        td class="keep" {
            @if let Some(rollout) = &status.rollout {
                (rollout.target) " "
                a href=(rollout_address(name, rollout.number)) { (rollout_pill(rollout.status)) }
                small { (status.state) " is the base" }
            } @else { (status.state) }
        }
    }
}

fn hosts(name: &str, status: &ConfigurationStatus) -> Markup {
    let all = status.hosts + status.unknown;
    if all == 0 {
        return html! { span class="dim" { "no host has reported" } };
    }
    let text = host_counts(status);
    html! {
        a href=(address("/hosts", &[("name", name)])) { (all) (host_bar("", status)) }
        small { (text) }
    }
}

/// A bar of the hosts of a configuration: done, working and failed.
pub fn host_bar(class: &str, status: &ConfigurationStatus) -> Markup {
    let working = WORKING.iter().filter_map(|phase| status.phases.get(phase)).sum::<u64>();
    let rest = status.hosts.saturating_sub(status.done + status.failed);
    let parts = [("good", status.done), ("work", working.min(rest)), ("bad", status.failed)];
    bar(class, &parts, status.hosts + status.unknown)
}

/// Whether hosts in this phase work on a deploy.
pub fn is_working(phase: &str) -> bool {
    WORKING.contains(&phase)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::verbs::fleet_document::RolloutBrief;

    fn summary(name: &str) -> ConfigurationSummary {
        ConfigurationSummary {
            name: name.parse().unwrap(),
            modified: Timestamp::UNIX_EPOCH,
            who: "SHA256:abc <b>anna</b>".into(),
            command: "bumpconf -name=\"a\"".into(),
            count: 6,
            layers: vec![("code".parse().unwrap(), "v1".parse().unwrap())],
        }
    }

    fn status(name: &str) -> ConfigurationStatus {
        ConfigurationStatus {
            configuration: name.into(),
            state: 14,
            hash: String::new(),
            rollout: Some(RolloutBrief {
                number: 7,
                status: "halted",
                target: 15,
                wave: 2,
                waves: 3,
            }),
            hosts: 4,
            done: 2,
            behind: 2,
            failed: 1,
            absent: 0,
            held: 0,
            unknown: 0,
            phases: BTreeMap::from([("healthy", 2), ("script", 1), ("failed", 1)]),
            groups: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn rows_show_the_counts_of_the_fleet() {
        let html = list(&[(summary("web"), status("web"))], 1, false, false).html.into_string();
        for wanted in [
            "14 is the base",
            "2 done, 1 failed",
            "<rect class=\"work\" x=\"50.00\" width=\"25.00\"",
            "/rollouts/web/7",
            "code v1 · 5 more layers",
            "&lt;b&gt;anna&lt;/b&gt; · bumpconf",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
    }

    #[test]
    fn hostile_names_are_escaped() {
        let name = "<script>alert(1)";
        let html = list(&[(summary(name), status(name))], 1, false, true).html.into_string();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("/configurations/%3Cscript%3Ealert%281%29"), "{html}");
        assert!(html.contains("after=%3Cscript%3E"), "{html}");
    }

    #[test]
    fn empty_list_shows_the_first_commands() {
        let html = list(&[], 0, false, false).html.into_string();
        assert!(html.contains("deployctl addconf -name web"), "{html}");
    }
}
