//! Renders the head of the screen: the host's problems and states, and the links to changes.

use deploy_store::Digest;
use maud::{Markup, html};

use super::{Doc, class_of, has_failed};
use crate::catalog::fleet::HostRow;
use crate::http::screens::layout::Section;
use crate::http::screens::need::spaced;
use crate::http::screens::phrases::person;
use crate::http::screens::widgets::{
    address, ago, configuration_address, confirm, count, icon, pill,
};
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::why::WhyOne;

/// Renders the section.
pub fn head(doc: &Doc) -> Section {
    let all = &doc.configurations;
    let html = html! {
        section id="host" aria-labelledby="host-h" class="stack" {
            div class="title" {
                (crumbs(all.iter().map(|one| &one.status)))
                h1 id="host-h" { (doc.host.name) }
                p { (subtitle(doc)) }
                @if doc.may_act { (actions(doc)) }
            }
            (needs(doc))
            @if let [one] = all.as_slice() {
                (facts(&doc.host, one))
            } @else if all.is_empty() {
                div class="card empty" {
                    p { "The host has not reported on any configuration that exists. Start "
                        "its agent with the name of a configuration:" }
                    code class="shell" { "deploy-agent -name NAME" }
                }
            } @else {
                @for one in all {
                    h3 { (configuration_link(&one.status)) " " (phase(&one.status)) }
                    (facts(&doc.host, one))
                }
            }
        }
    };
    Section { id: "host", html }
}

/// The section of an address from which agents only poll. Such agents have never reported.
pub fn polling_head(found: &[HostStatus]) -> Section {
    let name = found.first().map_or("", |one| one.host.as_str());
    let html = html! {
        section id="host" aria-labelledby="host-h" class="stack" {
            div class="title" {
                (crumbs(found.iter()))
                h1 id="host-h" { (name) }
                p { (pill("off", "only polls")) }
            }
            div class="card empty" {
                p { "An agent polls from this address, but has never reported what it runs. An "
                    "older agent cannot report. To see the version of the agent, type on the "
                    "host:" }
                code class="shell" { "deploy-agent -version" }
            }
            dl class="facts" {
                @for one in found {
                    (fact("Configuration", &configuration_link(one), &one.message))
                    (fact("Last poll", &ago(one.last_seen), ""))
                }
            }
        }
    };
    Section { id: "host", html }
}

fn crumbs<'a>(mut all: impl Iterator<Item = &'a HostStatus>) -> Markup {
    let (first, second) = (all.next(), all.next());
    html! {
        nav class="crumbs" aria-label="Path" {
            a href="/" { "Fleet" }
            @if let (Some(one), None) = (first, second) {
                " / "
                a href=(address("/hosts", &[("name", &one.configuration)])) {
                    "Hosts of " (one.configuration)
                }
            } @else {
                " / " a href="/hosts" { "Hosts" }
            }
        }
    }
}

fn configuration_link(status: &HostStatus) -> Markup {
    html! { a href=(configuration_address(&status.configuration)) { (status.configuration) } }
}

fn phase(status: &HostStatus) -> Markup {
    pill(class_of(status.phase), &spaced(status.phase))
}

fn subtitle(doc: &Doc) -> Markup {
    html! {
        @if let [one] = doc.configurations.as_slice() {
            (phase(&one.status))
            @if let Some(since) = one.status.since { " " (ago(since)) }
            " · " (configuration_link(&one.status))
        } @else {
            (count(doc.configurations.len() as u64, "configuration"))
        }
    }
}

fn actions(doc: &Doc) -> Markup {
    let host = doc.host.name.as_str();
    let is_single = doc.configurations.len() == 1;
    let failed = doc.configurations.iter().filter(|one| has_failed(&one.status));
    html! {
        div class="actions" {
            @for one in failed {
                @let name = &one.status.configuration;
                a class="button" href=(confirm("retry", &[("host", host), ("name", name)])) {
                    "Retry"
                    @if !is_single { " " (name) }
                    @if let Some(state) = one.status.wants { ": deploy state " (state) " again" }
                }
            }
            @if doc.host.hold.is_some() {
                a class="button" href=(confirm("host release", &[("host", host)])) { "Release…" }
            } @else {
                a class="button" href=(confirm("host hold", &[("host", host)])) { "Hold…" }
            }
            a class="button danger" href=(confirm("host retire", &[("host", host)])) { "Retire…" }
        }
    }
}

fn needs(doc: &Doc) -> Markup {
    let failed = || doc.configurations.iter().filter(|one| has_failed(&one.status));
    let duplicate = doc.configurations.iter().find(|one| one.status.duplicate);
    if failed().next().is_none() && duplicate.is_none() && doc.host.hold.is_none() {
        return html! {};
    }
    html! {
        ul class="needs" {
            @for one in failed() { (failure(&one.status)) }
            @if duplicate.is_some() {
                li class="need warn" {
                    (icon("warn"))
                    div {
                        b { "Two agents report under this name" }
                        small { "Give each host a name of its own: " code { "deploy-agent -host NAME" } }
                    }
                }
            }
            @if let Some(hold) = &doc.host.hold {
                li class="need warn" {
                    (icon("held"))
                    div {
                        b { "Held: " (hold.message) }
                        small {
                            "by " (person(&hold.who)) ", " (ago(hold.since))
                            "; the agents of this host deploy nothing new"
                        }
                    }
                }
            }
        }
    }
}

fn failure(status: &HostStatus) -> Markup {
    let message = if status.message.is_empty() { "The deploy failed" } else { &status.message };
    let rest = if status.phase == "rolled_back" {
        "is not deployed: the agent deployed the previous state again"
    } else {
        "is not deployed"
    };
    html! {
        li class="need bad" {
            (icon("failed"))
            div {
                b { (message) }
                @if let Some(id) = &status.wants_hash {
                    small { (status.configuration) ": " (short(id)) "… " (rest) }
                }
            }
            @if status.wave.is_some() {
                a href=(address("/rollouts", &[("name", &status.configuration)])) { "rollouts" }
            }
        }
    }
}

fn facts(host: &HostRow, one: &WhyOne) -> Markup {
    let HostStatus { runs, runs_hash, wants, wants_hash, wave, .. } = &one.status;
    let wants_rest = wave.map(|wave| format!("wave {wave} of a rollout"));
    let group = if host.group().is_empty() { "none" } else { host.group() };
    let exit_code = one.attempts.first().and_then(|last| last.exit_code);
    html! {
        dl class="facts" {
            (fact("Runs", &state(one, *runs), &hash(runs_hash.as_ref(), None)))
            (fact("Wants", &state(one, *wants), &hash(wants_hash.as_ref(), wants_rest)))
            (fact("Group", &html! { (group) }, ""))
            @if one.status.connected {
                (fact("Connected", &html! { "yes" }, ""))
            } @else {
                div {
                    dt { "Connected" }
                    dd { "no" small { "last seen " (ago(one.status.last_seen)) } }
                }
            }
            @if let Some(code) = exit_code {
                @let reason = one.status.reason.map(|reason| format!("reason: {reason}"));
                (fact("Exit code", &html! { (code) }, &reason.unwrap_or_default()))
            }
            @if !one.status.version.is_empty() {
                (fact("Agent", &html! { (one.status.version) }, ""))
            }
            (fact("First report", &ago(host.since), ""))
        }
    }
}

fn fact(term: &str, value: &Markup, below: &str) -> Markup {
    html! {
        div { dt { (term) } dd { (value) @if !below.is_empty() { small { (below) } } } }
    }
}

/// The number of a state, with a link to the changes of this state.
fn state(one: &WhyOne, number: Option<u64>) -> Markup {
    let Some(number) = number else { return html! { "–" } };
    let path = format!("{}/diff", configuration_address(&one.status.configuration));
    html! {
        @if number > 1 { a href=(address(&path, &[("to", &number.to_string())])) { (number) } }
        @else { (number) }
    }
}

fn hash(id: Option<&Digest>, rest: Option<String>) -> String {
    let id = id.map(|id| format!("{}…", short(id)));
    id.into_iter().chain(rest).collect::<Vec<_>>().join(", ")
}

fn short(id: &Digest) -> String {
    id.to_string().chars().take(8).collect()
}
