//! Renders `/hosts`, which lists hosts.

use deploy_wire::fleet::HostName;
use maud::{Markup, html};

use super::layout::{Nav, Page, Part, Section};
use super::need::{first_line, spaced};
use super::widgets::{
    address, ago, configuration_address, count, host_address, nothing, pill, section, table,
};
use super::{HostsFilter, hosts_filter};
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_document::{ConfigurationStatus, FleetStatus, HostStatus};
use crate::verbs::fleet_status::FleetQuery;

/// A page shows at most this many hosts.
const PAGE: u64 = 200;

/// Renders the screen.
pub async fn page(
    registry: &Registry,
    filter: &HostsFilter,
    _may_act: bool,
) -> Result<Page, Problem> {
    let HostsFilter { name, host, group, phase, behind, only, wave, after } = filter.clone();
    let query =
        FleetQuery { name, host, group, phase, behind, only, wave, after, limit: Some(PAGE) };
    let fleet = registry.fleet_status(&query).await?;
    let form = hosts_filter::read(registry, filter, true).await?;
    let parts = vec![
        Part::One(heading(filter, &fleet.configurations)),
        Part::Fixed(form),
        Part::One(section("list", "List", &nothing(), &list(filter, &fleet))),
    ];
    Ok(Page::new("Hosts", Nav::Fleet, parts))
}

fn heading(filter: &HostsFilter, counts: &[ConfigurationStatus]) -> Section {
    let html = html! {
        section id="hosts" aria-labelledby="hosts-h" class="stack" {
            div class="title" {
                nav class="crumbs" aria-label="Path" {
                    a href="/" { "Fleet" }
                    @if let Some(name) = &filter.name {
                        " / " a href=(configuration_address(name.as_str())) { (name) }
                    }
                }
                h1 id="hosts-h" { "Hosts" }
                p { (summary(filter, counts)) }
            }
            (hosts_filter::chips(filter, counts))
        }
    };
    Section { id: "hosts", html }
}

/// The number of hosts in each phase. If `filter` names one configuration, the text also says how
/// many hosts have confirmed the configuration's state.
fn summary(filter: &HostsFilter, counts: &[ConfigurationStatus]) -> String {
    let mut phases = std::collections::BTreeMap::<&str, u64>::new();
    for (phase, number) in counts.iter().flat_map(|of| &of.phases) {
        *phases.entry(phase).or_default() += number;
    }
    let phases: Vec<String> =
        phases.iter().map(|(phase, number)| format!("{number} {}", spaced(phase))).collect();
    let mut text = phases.join(", ");
    if let ([of], true) = (counts, filter.name.is_some()) {
        let ConfigurationStatus { state, done, hosts, .. } = of;
        let begin = if text.is_empty() { "" } else { "; " };
        text = format!("{text}{begin}state {state} confirmed by {done} of {hosts}");
    }
    text
}

fn list(filter: &HostsFilter, fleet: &FleetStatus) -> Markup {
    if fleet.hosts.is_empty() {
        return empty(filter, &fleet.configurations);
    }
    let head = html! {
        th scope="col" { "Host" }
        th scope="col" { "Group" }
        th scope="col" { "Configuration" }
        th scope="col" class="num" { "Runs" }
        th scope="col" class="num" { "Wants" }
        th scope="col" { "Phase" }
        th scope="col" { "Since" }
        th scope="col" { "Why" }
    };
    let rows = html! { @for host in &fleet.hosts { (row(host)) } };
    table("list", &head, &rows, &paging(filter, fleet))
}

fn empty(filter: &HostsFilter, counts: &[ConfigurationStatus]) -> Markup {
    let has_hosts = counts.iter().any(|of| of.hosts + of.unknown > 0);
    html! {
        div class="card empty" {
            @if *filter == HostsFilter::default() {
                p { "No host has reported yet. Start an agent on a server:" }
                code class="shell" {
                    "deploy-agent -addr HOST:PORT -fp FINGERPRINT -key agent.key -name web"
                }
            } @else {
                p {
                    @if has_hosts { "No host matches. " } @else { "There is no such host. " }
                    a href="/hosts" { "Show all hosts" }
                }
            }
        }
    }
}

fn row(host: &HostStatus) -> Markup {
    let since = host.since.or_else(|| (!host.connected).then_some(host.last_seen));
    html! {
        tr {
            th scope="row" { a href=(host_address(&host.host)) { (host.host) } }
            td { (host.group) }
            td { a href=(configuration_address(&host.configuration)) { (host.configuration) } }
            td class="num" { (number(host.runs)) }
            td class="num" { (number(host.wants)) }
            td class="keep" { (phase(host)) }
            td class="keep" { @if let Some(since) = since { (ago(since)) } }
            td class="why" { (why(host)) }
        }
    }
}

fn number(state: Option<u64>) -> String {
    state.map_or_else(|| "–".to_owned(), |state| state.to_string())
}

fn phase(host: &HostStatus) -> Markup {
    let word = spaced(host.phase);
    let class = match host.phase {
        "healthy" | "unknown" => None,
        "failed" | "rolled_back" => Some("bad"),
        "held" => Some("warn"),
        _ => Some("work"),
    };
    html! {
        @if let Some(class) = class { (pill(class, &word)) } @else { (word) }
        @if host.held.is_some() { " " (pill("warn", "held by an operator")) }
        @if host.duplicate { " " (pill("bad", "duplicate")) }
        @if !host.connected && host.phase != "unknown" { " " (pill("off", "not connected")) }
    }
}

fn why(host: &HostStatus) -> Markup {
    html! {
        (first_line(&host.message))
        @if let Some(held) = &host.held { small { "held: " (first_line(held)) } }
    }
}

fn paging(filter: &HostsFilter, fleet: &FleetStatus) -> Markup {
    let shown = fleet.hosts.len() as u64;
    let next = fleet.hosts.last().filter(|_| fleet.more);
    html! {
        span { (count(shown, "row")) @if fleet.more { ", and more" } }
        @if filter.after.is_some() { a href=(page_after(filter, "")) { "first page" } }
        @if let Some(last) = next { a href=(page_after(filter, &last.host)) { "next page" } }
    }
}

/// The address of the same list, beginning after the host `after`.
fn page_after(filter: &HostsFilter, after: &str) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let name = text(filter.name.as_ref().map(ToString::to_string));
    let host = text(filter.host.as_ref().map(HostName::to_string));
    let group = text(filter.group.as_ref().map(ToString::to_string));
    let phase = text(filter.phase.map(|phase| phase.word().to_owned()));
    let only = text(filter.only.map(|part| part.word().to_owned()));
    let wave = text(filter.wave.map(|wave| wave.to_string()));
    let behind = if filter.behind { "1" } else { "" };
    let fields = [
        ("name", &*name),
        ("host", &host),
        ("group", &group),
        ("phase", &phase),
        ("behind", behind),
        ("only", &only),
        ("wave", &wave),
        ("after", after),
    ];
    address("/hosts", &fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::convergence::Part as Counted;
    use crate::verbs::fleet_counts::tests::seen;

    #[test]
    fn next_page_keeps_the_conditions() {
        let filter = HostsFilter {
            name: Some("web".parse().unwrap()),
            only: Some(Counted::Failed),
            wave: Some(2),
            behind: true,
            ..HostsFilter::default()
        };
        let address = page_after(&filter, "web-200");
        assert_eq!(address, "/hosts?name=web&behind=1&only=failed&wave=2&after=web-200");
        let read = super::super::Screen::parse("/hosts", &address["/hosts?".len()..]).unwrap();
        let after = Some("web-200".parse().unwrap());
        assert_eq!(read, super::super::Screen::Hosts(HostsFilter { after, ..filter }));
    }

    #[test]
    fn texts_of_hosts_are_escaped() {
        let mut host = seen("<script>alert(1)</script>", "<g>", Counted::Failed).host;
        "\"<script>\"\nsecond".clone_into(&mut host.message);
        host.held = Some("<i>".to_owned());
        let fleet = FleetStatus { configurations: Vec::new(), hosts: vec![host], more: true };
        let html = list(&HostsFilter::default(), &fleet).into_string();
        assert!(!html.contains("<script>") && !html.contains("<i>") && !html.contains("<g>"));
        assert!(!html.contains("second") && html.contains("next page"), "{html}");
    }

    #[test]
    fn empty_list_says_what_to_do() {
        let filter = HostsFilter { behind: true, ..HostsFilter::default() };
        assert!(empty(&filter, &[]).into_string().contains("Show all hosts"));
        assert!(empty(&HostsFilter::default(), &[]).into_string().contains("deploy-agent"));
    }
}
