//! Renders `/`, which shows what needs attention, the active rollouts, and the configurations.

mod attention;
mod attention_list;
mod matrix;

use std::collections::HashSet;

use maud::{Markup, html};

pub use self::attention::{Failure, failures};
pub use self::attention_list::failure;
use super::hosts_filter;
use super::layout::{Nav, Page, Part, Section};
use super::rollout_parts::{actions, changed_layers, failed_of, next_step, status_pill, what};
use super::rollout_waves::{Squares, legend, waves};
use super::widgets::{count, nothing, rollout_address, section};
use crate::catalog::ConfigurationHead;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_overview::FleetOverview;
use crate::verbs::rollout_status::RolloutStatus;
use attention::Attention;

/// The screen shows the waves of at most this many rollouts.
const ROLLOUTS: usize = 6;
/// The screen shows at most this many configurations.
const CONFIGURATIONS: u64 = 40;
/// The limits on the number of squares that stand for hosts.
const SQUARES: Squares = Squares { of_wave: 60, left: 120 };

/// What the screen shows.
#[derive(Debug)]
struct FleetDoc {
    fleet: FleetOverview,
    attention: Attention,
    /// The active rollouts to show, each with a text about the changed layers. Rollouts that wait
    /// for an operator come first.
    rollouts: Vec<(RolloutStatus, String)>,
    heads: Vec<ConfigurationHead>,
    filter: Markup,
}

/// Renders the first screen.
pub async fn page(registry: &Registry, may_act: bool) -> Result<Page, Problem> {
    let doc = read(registry).await?;
    Ok(Page::new("Fleet", Nav::Fleet, parts(&doc, may_act)))
}

async fn read(registry: &Registry) -> Result<FleetDoc, Problem> {
    let fleet = registry.fleet_overview(None).await?;
    let attention = Attention::read(registry, &fleet).await?;
    let mut active: Vec<&RolloutStatus> = fleet.rollouts.iter().collect();
    active.sort_by_key(|rollout| rollout.status == "running");
    let mut rollouts = Vec::new();
    for status in active.into_iter().take(ROLLOUTS) {
        rollouts.push((status.clone(), changed_layers(registry, status).await?));
    }
    let heads = registry.catalog.configuration_heads(None, CONFIGURATIONS).await?;
    let filter = hosts_filter::read(registry, &super::HostsFilter::default(), false).await?;
    Ok(FleetDoc { fleet, attention, rollouts, heads, filter })
}

fn parts(doc: &FleetDoc, may_act: bool) -> Vec<Part> {
    let needs = section("needs", "Needs attention", &nothing(), &doc.attention.list());
    let mut parts = vec![Part::One(title(&doc.fleet)), Part::One(needs)];
    if doc.fleet.configurations.is_empty() {
        parts.push(Part::One(section("configurations", "First steps", &nothing(), &empty())));
        return parts;
    }
    let all = html! { a href="/rollouts" { "all rollouts" } };
    parts.push(Part::One(section("rollouts", "Rollouts", &all, &rollouts(doc, may_act))));
    let chips = hosts_filter::chips(&super::HostsFilter::default(), &doc.fleet.configurations);
    parts.push(Part::One(configurations(doc)));
    parts.push(Part::One(section("find", "Find hosts", &nothing(), &chips)));
    parts.push(Part::Fixed(doc.filter.clone()));
    parts
}

/// The title with the number of hosts.
fn title(fleet: &FleetOverview) -> Section {
    let hosts: HashSet<&str> = fleet.agents.iter().map(|seen| &*seen.host.host).collect();
    let connected = fleet.agents.iter().filter(|seen| seen.standing.connected);
    let connected: HashSet<&str> = connected.map(|seen| &*seen.host.host).collect();
    let html = html! {
        div class="title" id="fleet" {
            h1 { "Fleet" }
            p {
                @if fleet.configurations.is_empty() {
                    "no configuration yet"
                } @else {
                    (count(hosts.len() as u64, "host")) ", " (connected.len()) " connected"
                    @if !fleet.polling.is_empty() {
                        ", " (count(fleet.polling.len() as u64, "agent")) " that only poll"
                    }
                }
            }
        }
    };
    Section { id: "fleet", html }
}

fn rollouts(doc: &FleetDoc, may_act: bool) -> Markup {
    let mut squares = SQUARES;
    let more = doc.fleet.rollouts.len() - doc.rollouts.len();
    html! {
        @if doc.rollouts.is_empty() {
            p class="dim" {
                "No rollout is active. To bring a change to a few hosts first, type "
                code { "ssh registry rollout start -name web -layer code:v2 -waves 1,10%,100%" }
            }
        } @else {
            @for (status, layers) in &doc.rollouts {
                (rollout(status, layers, may_act, &mut squares))
            }
            @if more > 0 { p class="dim" { a href="/rollouts" { "and " (more) " more" } } }
            (legend())
        }
    }
}

fn rollout(status: &RolloutStatus, layers: &str, may_act: bool, squares: &mut Squares) -> Markup {
    let RolloutStatus { configuration, number, .. } = status;
    html! {
        article class="card" aria-label={ (configuration) ", rollout " (number) } {
            div class="roll" {
                h3 {
                    a href=(rollout_address(configuration, *number)) {
                        (configuration) " · rollout " (number)
                    }
                }
                span { (what(status, layers)) }
                (status_pill(status.status))
                span { "failed " (failed_of(status)) }
                span { (next_step(status)) }
                (actions(status, may_act))
            }
            (waves(status, squares))
        }
    }
}

fn configurations(doc: &FleetDoc) -> Section {
    let all = &doc.fleet.configurations;
    let table = matrix::table(all, &doc.heads);
    let beside = html! {
        @if all.len() > doc.heads.len() {
            p { "the first " (doc.heads.len()) " of " (all.len()) }
        }
    };
    let has_hosts = !doc.fleet.agents.is_empty() || !doc.fleet.polling.is_empty();
    let body = html! {
        (table)
        @if !has_hosts { div class="card empty" { (start_an_agent()) } }
    };
    section("configurations", "Configurations", &beside, &body)
}

/// What to do with a registry that has no configuration.
fn empty() -> Markup {
    html! {
        div class="card empty" {
            p { "There is no configuration yet. Upload an archive as a version, and make a "
                "configuration with this version:" }
            code class="shell" {
                "deployctl addver -name code -version v1 -dir build\n"
                "deployctl addconf -name web -layer code:v1"
            }
            (start_an_agent())
        }
    }
}

/// How to start the first agent.
fn start_an_agent() -> Markup {
    html! {
        p { "Start an agent on each server. When the registry starts, it logs the fingerprint of \
             its host key:" }
        code class="shell" {
            "deploy-agent -addr HOST:PORT -fp FINGERPRINT -key agent.key -name web"
        }
        p { "This page shows each host as soon as it reports. You need not reload the page." }
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;

    use super::super::rollout_parts::tests::{host, rollout};
    use super::*;
    use crate::catalog::fleet::CurrentState;
    use crate::fleet::convergence::Part as Counted;
    use crate::verbs::fleet_counts::tests::seen;
    use crate::verbs::fleet_counts::{Counts, Seen};

    fn doc(agents: Vec<Seen>, rollouts: Vec<RolloutStatus>) -> FleetDoc {
        let mut counts = Counts::default();
        for seen in &agents {
            counts.add(seen);
        }
        let current = CurrentState { number: 2, revision: 7, id: Digest::of(b"new") };
        let web = counts.take("web", &current, None);
        let fleet = FleetOverview {
            configurations: vec![web],
            agents,
            polling: Vec::new(),
            rollouts: rollouts.clone(),
        };
        let rollouts = rollouts.into_iter().map(|one| (one, "code v1 → v2".to_owned())).collect();
        let filter = html! {};
        FleetDoc { fleet, attention: Attention::default(), rollouts, heads: Vec::new(), filter }
    }

    fn html_of(doc: &FleetDoc, may_act: bool) -> String {
        let page = Page::new("Fleet", Nav::Fleet, parts(doc, may_act));
        page.sections().map(|section| section.html.0.as_str()).collect()
    }

    #[test]
    fn hosts_with_several_configurations_count_once_in_the_title() {
        let mut other = seen("a", "", Counted::Done);
        other.host.configuration = "other".to_owned();
        let absent = seen("b", "", Counted::Absent);
        let doc = doc(vec![seen("a", "", Counted::Done), other, absent], Vec::new());
        assert!(html_of(&doc, false).contains("<p>2 hosts, 1 connected</p>"));
    }

    #[test]
    fn active_rollout_is_shown_with_its_actions() {
        let hosts = vec![host("a", 1, "good"), host("b", 1, "failed")];
        let doc = doc(vec![seen("a", "", Counted::Done)], vec![rollout("running", hosts)]);
        let html = html_of(&doc, true);
        assert!(html.contains("href=\"/rollouts/web/7\""), "{html}");
        assert!(html.contains("state 15 over 14 · code v1 → v2"), "{html}");
        assert!(html.contains("verb=rollout+abort"), "{html}");
        assert!(!html_of(&doc, false).contains("verb="));
    }

    #[test]
    fn empty_registry_says_what_to_type() {
        let mut doc = doc(Vec::new(), Vec::new());
        assert!(html_of(&doc, false).contains("deploy-agent -addr"), "no host has reported");
        doc.fleet.configurations.clear();
        let html = html_of(&doc, false);
        assert!(html.contains("deployctl addver") && html.contains("Nothing needs attention"));
        assert!(html.contains("no configuration yet") && !html.contains("id=\"rollouts\""));
    }
}
