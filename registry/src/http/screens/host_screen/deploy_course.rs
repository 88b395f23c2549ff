//! Renders the deploys on the host: the phases of the last deploy, and the earlier deploys.

use deploy_store::Digest;
use deploy_wire::fleet::Step;
use maud::{Markup, html};

use super::{Doc, class_of};
use crate::http::screens::durations::{milliseconds, took};
use crate::http::screens::layout::Section;
use crate::http::screens::need::spaced;
use crate::http::screens::widgets::{ago, bar, nothing, pill, section, table};
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::why::{Tried, WhyOne};

/// The duration of a deploy in milliseconds: the sum of the durations of its steps.
pub fn duration(tried: &Tried) -> u64 {
    tried.steps.iter().fold(0, |sum, step| sum.saturating_add(step.ms))
}

/// The phases of the last deploy of each configuration. Each phase has a bar on a common time axis.
pub fn phases(doc: &Doc) -> Section {
    let beside = html! {
        @if let [one] = doc.configurations.as_slice() && let Some(last) = one.attempts.first() {
            p { (took(duration(last))) }
        }
    };
    let body =
        doc.each(|_, one| match one.attempts.first().filter(|last| !last.steps.is_empty()) {
            Some(last) => course(last),
            None => empty("No step of the last deploy has ended yet."),
        });
    section("phases", "Phases of the last deploy", &beside, &body)
}

fn empty(text: &str) -> Markup {
    html! { div class="card empty" { p class="dim" { (text) } } }
}

fn course(tried: &Tried) -> Markup {
    let total = duration(tried);
    let mut begin = 0;
    let rows: Vec<(&Step, u64)> = tried
        .steps
        .iter()
        .map(|step| {
            let at = begin;
            begin += step.ms;
            (step, at)
        })
        .collect();
    let head = html! {
        th scope="col" { "Phase" } th scope="col" class="num" { "Time" }
        th scope="col" class="hosts" { "Course" }
    };
    let rows = html! {
        @for (step, begin) in rows {
            tr {
                th scope="row" { (spaced(step.phase.word())) }
                td class="num" { (milliseconds(step.ms)) }
                td class="hosts time" { (piece(step_class(step), begin, step.ms, total)) }
            }
        }
    };
    table("phases", &head, &rows, &nothing())
}

/// The colour of a step. Only a step that ended in a failure is red.
fn step_class(step: &Step) -> &'static str {
    match class_of(step.phase.word()) {
        "off" => "idle",
        class => class,
    }
}

/// A bar with one piece. A short piece still has a width that people can see.
fn piece(class: &str, begin: u64, length: u64, total: u64) -> Markup {
    const LEAST: u64 = 60;
    // The numbers are hundredths of a percent.
    let share = |ms: u64| ms.saturating_mul(10_000) / total.max(1);
    let width = share(length).max(LEAST);
    let x = share(begin).min(10_000 - width.min(10_000));
    let text = |share: u64| format!("{}.{:02}", share / 100, share % 100);
    html! {
        svg class="bar track big" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect class=(class) x=(text(x)) width=(text(width)) height="8" {}
        }
    }
}

/// For each configuration, the deploys that the registry has kept, newest first.
pub fn before(doc: &Doc) -> Section {
    let body = doc.each(|_, one| {
        if one.attempts.is_empty() {
            return empty("The host has reported no deploy yet.");
        }
        attempts(one)
    });
    section("before", "Last deploys", &nothing(), &body)
}

fn attempts(one: &WhyOne) -> Markup {
    let longest = one.attempts.iter().map(duration).max().unwrap_or(0);
    let head = html! {
        th scope="col" { "Time" } th scope="col" class="num" { "State" } th scope="col" { "Phase" }
        th scope="col" class="num" { "Took" } th scope="col" class="hosts wide" { "Course" }
        th scope="col" { "Why" }
    };
    let rows = html! {
        @for tried in &one.attempts {
            tr {
                th scope="row" class="keep" { (ago(tried.began)) }
                td class="num" { (state(&one.status, tried.wants_hash.as_ref())) }
                td { (pill(class_of(tried.phase), &spaced(tried.phase))) }
                td class="num" { (took(duration(tried))) }
                td class="hosts wide" {
                    @let steps: Vec<(&str, u64)> =
                        tried.steps.iter().map(|step| (step_class(step), step.ms)).collect();
                    (bar("big", &steps, longest))
                    small { (steps_text(&tried.steps)) }
                }
                td class="why" { (tried.message) }
            }
        }
    };
    table("before", &head, &rows, &nothing())
}

/// The steps as text, with the words that the verb `why` uses.
fn steps_text(steps: &[Step]) -> String {
    let text = |step: &Step| format!("{} {}", spaced(step.phase.word()), milliseconds(step.ms));
    steps.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The number of the state with this id, if the host runs or wants this state. For any other id,
/// the beginning of the id. Without an id, a dash.
fn state(status: &HostStatus, id: Option<&Digest>) -> String {
    let HostStatus { runs, runs_hash, wants, wants_hash, .. } = status;
    let known = [(runs_hash, runs), (wants_hash, wants)];
    let number = known.into_iter().find(|(hash, number)| hash.as_ref() == id && number.is_some());
    match (number, id) {
        (Some((_, Some(number))), Some(_)) => number.to_string(),
        (_, Some(id)) => id.to_string().chars().take(8).chain(['…']).collect(),
        (_, None) => "–".to_owned(),
    }
}
