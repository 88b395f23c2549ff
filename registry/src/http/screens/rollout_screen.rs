//! Renders `/rollouts/NAME/NUMBER`, which shows one rollout.

mod rollout_log;

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use super::fleet_screen::{Failure, failure, failures};
use super::layout::{Nav, Page, Part, Section};
use super::need::{first_line, need};
use super::phrases::{person, verb_of};
use super::rollout_parts::{
    actions, changed_layers, failed_of, next_step, status_pill, stopped, what,
};
use super::rollout_waves::{Squares, legend, waves};
use super::widgets::{
    ago, bar, configuration_address, confirm, count, host_address, nothing, pill, section, table,
};
use crate::catalog::State;
use crate::catalog::fleet::Event;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::rollout_status::{RolloutHost, RolloutStatus};

/// The table of hosts whose result is not `good` lists at most this many hosts.
const HOSTS: usize = 50;
/// The screen shows at most this many events.
const EVENTS: u64 = 100;
/// The limits on the number of squares that stand for hosts.
const SQUARES: Squares = Squares { of_wave: 200, left: 600 };

/// What the screen shows.
#[derive(Debug)]
struct RolloutDoc {
    status: RolloutStatus,
    layers: String,
    /// The command that started the rollout.
    command: String,
    failures: Vec<Failure>,
    events: Vec<Event>,
}

/// Renders the screen.
pub async fn page(
    registry: &Registry,
    name: &ConfigurationName,
    number: u64,
    may_act: bool,
) -> Result<Page, Problem> {
    let doc = read(registry, name, number).await?;
    let title = format!("{name} · rollout {number}");
    Ok(Page::new(title, Nav::Configurations, parts(&doc, may_act)))
}

async fn read(
    registry: &Registry,
    name: &ConfigurationName,
    number: u64,
) -> Result<RolloutDoc, Problem> {
    let status = registry.rollout_status(name, Some(number)).await?;
    let failures = match status.ended {
        None if status.failed > 0 => {
            let fleet = registry.fleet_overview(Some(name)).await?;
            failures(registry, &fleet.agents).await?.0
        }
        _ => Vec::new(),
    };
    let layers = changed_layers(registry, &status).await?;
    let started = registry.catalog.history(name, Some(status.target + 1), 1).await?;
    let started = started.into_iter().find(|state: &State| state.hash == status.target_hash);
    let events = registry.catalog.rollout_events(name, number, status.started, EVENTS).await?;
    let command = started.map(|state| state.command).unwrap_or_default();
    Ok(RolloutDoc { status, layers, command, failures, events })
}

fn parts(doc: &RolloutDoc, may_act: bool) -> Vec<Part> {
    let status = &doc.status;
    let mut squares = SQUARES;
    let body = html! { div class="card" { (waves(status, &mut squares)) (legend()) } };
    let is_large = status.waves.iter().any(|wave| wave.hosts > Some(SQUARES.of_wave as u64));
    let beside = html! {
        @if is_large { p { "large waves show only hosts that failed or have no result yet" } }
    };
    let retry = retry(status, may_act);
    let order = html! { p { "newest first, UTC" } };
    vec![
        Part::One(heading(doc, may_act)),
        Part::One(section("waves", "Waves", &beside, &body)),
        Part::Columns(vec![
            section("hosts", "Hosts that are not good", &retry, &hosts(status)),
            section("events", "Events", &order, &rollout_log::log(status, &doc.events)),
        ]),
    ]
}

fn heading(doc: &RolloutDoc, may_act: bool) -> Section {
    let RolloutStatus { configuration, number, .. } = &doc.status;
    let html = html! {
        section id="rollout" aria-labelledby="rollout-h" class="stack" {
            div class="title" {
                nav class="crumbs" aria-label="Path" {
                    a href="/configurations" { "Configurations" }
                    " / " a href=(configuration_address(configuration)) { (configuration) }
                    " / " a href="/rollouts" { "Rollouts" }
                }
                h1 id="rollout-h" { (configuration) " · rollout " (number) }
                p { (what(&doc.status, &doc.layers)) }
                (actions(&doc.status, may_act))
            }
            (needs(doc))
            (facts(doc))
        }
    };
    Section { id: "rollout", html }
}

/// Why the rollout does not continue, and what failed.
fn needs(doc: &RolloutDoc) -> Markup {
    let status = &doc.status;
    let is_stopped = status.ended.is_none() && status.status != "running";
    if !is_stopped && doc.failures.is_empty() {
        return nothing();
    }
    let class = if status.status == "halted" { "bad" } else { "warn" };
    let text = html! { b { (stopped(status)) } small { (status.status) " " (ago(status.since)) } };
    html! {
        ul class="needs" {
            @if is_stopped { (need(class, &text, &nothing(), "")) }
            @for one in &doc.failures { (failure(one)) }
        }
    }
}

fn facts(doc: &RolloutDoc) -> Markup {
    let status = &doc.status;
    let RolloutStatus { good, taken, waiting, .. } = *status;
    let verb = verb_of(&doc.command);
    html! {
        dl class="facts" {
            (fact("Status", &status_pill(status.status)))
            (fact("Failed", &failed_of(status)))
            (fact("Good", &html! {
                (good) " of " (taken) (bar("meter", &[("good", good)], taken))
            }))
            (fact("Not in a wave yet", &html! { (waiting) }))
            (fact("Next", &next_step(status)))
            (fact("Started", &html! {
                (ago(status.started))
                small { "by " (person(&status.who)) @if !verb.is_empty() { " · " (verb) } }
            }))
        }
    }
}

fn fact(term: &str, value: &Markup) -> Markup {
    html! { div { dt { (term) } dd { (value) } } }
}

fn retry(status: &RolloutStatus, may_act: bool) -> Markup {
    let failed = status.hosts.iter().filter(|host| host.result == "failed").count() as u64;
    let flags = [("name", status.configuration.as_str()), ("failed", "true")];
    html! {
        @if may_act && failed > 0 && status.ended.is_none() {
            a href=(confirm("retry", &flags)) { "Retry " (count(failed, "failed host")) "…" }
        }
    }
}

fn hosts(status: &RolloutStatus) -> Markup {
    let rank = |host: &RolloutHost| match host.result {
        "failed" => 0,
        "working" => 1,
        "offered" => 2,
        _ => 3,
    };
    let mut bad: Vec<&RolloutHost> =
        status.hosts.iter().filter(|host| host.result != "good").collect();
    bad.sort_by_key(|host| (rank(host), host.wave));
    if bad.is_empty() {
        let text =
            if status.taken == 0 { "No wave has taken a host." } else { "All hosts are good." };
        return html! { div class="card empty" { p { (text) } } };
    }
    let head = html! {
        th scope="col" { "Host" }
        th scope="col" class="num" { "Wave" }
        th scope="col" { "Result" }
        th scope="col" { "Why" }
    };
    let all = bad.len();
    bad.truncate(HOSTS);
    let rows = html! { @for host in &bad { (row(host)) } };
    let below = html! { @if all > HOSTS { span { "1 to " (HOSTS) " of " (all) } } };
    table("hosts", &head, &rows, &below)
}

fn row(host: &RolloutHost) -> Markup {
    let class = match host.result {
        "failed" => "bad",
        "working" => "work",
        _ => "off",
    };
    html! {
        tr {
            th scope="row" { a href=(host_address(&host.host)) { (host.host) } }
            td class="num" { (host.wave) }
            td { (pill(class, host.result)) }
            td class="why" { (first_line(&host.why)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rollout_parts::tests::{host, rollout};
    use super::*;

    fn html_of(status: RolloutStatus, may_act: bool) -> String {
        let command = "bumpconf -name=web".to_owned();
        let (layers, failures, events) = ("code v1 → v2".to_owned(), Vec::new(), Vec::new());
        let doc = RolloutDoc { status, layers, command, failures, events };
        let page = Page::new("", Nav::Configurations, parts(&doc, may_act));
        page.sections().map(|section| section.html.0.as_str()).collect()
    }

    #[test]
    fn halted_rollout_says_why_and_what_to_do() {
        let hosts = vec![
            host("a", 1, "good"),
            host("b", 1, "working"),
            host("c", 1, "failed"),
            host("<script>", 1, "failed"),
        ];
        let html = html_of(rollout("halted", hosts), true);
        for text in [
            "halted in wave 1 of 2: &lt;script&gt;alert(1)",
            "<dt>Failed</dt><dd>2, at most 2<svg",
            "<dt>Good</dt><dd>1 of 4<svg",
            "<dt>Not in a wave yet</dt><dd>29</dd>",
            "by anna · bumpconf",
            "Retry 2 failed hosts…",
            "verb=retry&amp;name=web&amp;failed=true",
            "waits for an operator",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
        assert!(!html.contains("<script>"), "{html}");
        let table = html.split("Hosts that are not good").nth(1).unwrap();
        assert!(table.find(">c</a>") < table.find(">b</a>"), "failed hosts come first");
    }

    #[test]
    fn viewer_without_rights_sees_no_actions() {
        let html = html_of(rollout("halted", vec![host("a", 1, "failed")]), false);
        assert!(!html.contains("/confirm"), "{html}");
    }

    #[test]
    fn rollout_without_problems_says_so() {
        let html = html_of(rollout("running", vec![host("a", 1, "good")]), true);
        assert!(html.contains("All hosts are good.") && !html.contains("class=\"needs\""));
    }
}
