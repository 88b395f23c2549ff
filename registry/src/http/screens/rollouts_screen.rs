//! Renders `/rollouts`, which lists active and earlier rollouts.

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use super::layout::{Nav, Page, Part};
use super::need::first_line;
use super::phrases::person;
use super::rollout_parts::status_pill;
use super::widgets::{ago, configuration_address, nothing, rollout_address, section, table};
use crate::catalog::rollouts::RolloutRow;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen lists all active rollouts, and at most this many earlier rollouts.
const MOST: u64 = 100;

/// Renders the screen.
pub async fn page(registry: &Registry, name: Option<&ConfigurationName>) -> Result<Page, Problem> {
    let active = registry.catalog.active_rollouts(name).await?;
    let mut earlier = registry.catalog.rollouts(name, MOST + 1).await?;
    let is_cut = earlier.len() as u64 > MOST;
    if is_cut {
        earlier.pop();
    }
    earlier.retain(|row| row.ended.is_some());
    let title = name.map_or_else(|| "Rollouts".to_owned(), |name| format!("Rollouts of {name}"));
    let parts = vec![
        Part::Fixed(heading(&title, name)),
        Part::One(section("active", "Active", &nothing(), &list("active", &active, false))),
        Part::One(section("earlier", "Earlier", &nothing(), &list("earlier", &earlier, is_cut))),
    ];
    Ok(Page::new(title, Nav::Configurations, parts))
}

fn heading(title: &str, name: Option<&ConfigurationName>) -> Markup {
    html! {
        div class="title" {
            nav class="crumbs" aria-label="Path" {
                a href="/configurations" { "Configurations" }
                @if let Some(name) = name {
                    " / " a href=(configuration_address(name.as_str())) { (name) }
                }
            }
            h1 { (title) }
            @if name.is_some() { p { a href="/rollouts" { "all rollouts" } } }
        }
    }
}

fn list(id: &str, rows: &[RolloutRow], is_cut: bool) -> Markup {
    if rows.is_empty() {
        return html! {
            div class="card empty" {
                @if id == "active" {
                    p { "No rollout is active. A rollout brings a change to a few hosts first, and \
                         halts by itself if too many fail. To start one:" }
                    code class="shell" {
                        "ssh registry rollout start -name web -layer code:v2 -waves 1,10%,100%"
                    }
                } @else {
                    p { "No rollout has ended yet." }
                }
            }
        };
    }
    let head = html! {
        th scope="col" { "Rollout" }
        th scope="col" class="num" { "State" }
        th scope="col" class="num" { "Over" }
        th scope="col" { "Status" }
        th scope="col" { "Started" }
        th scope="col" { "Ended" }
        th scope="col" { "Why" }
    };
    let body = html! { @for row in rows { (line(row)) } };
    let below = html! { @if is_cut { span { "the newest " (rows.len()) } } };
    table(id, &head, &body, &below)
}

fn line(row: &RolloutRow) -> Markup {
    let name = row.configuration.as_str();
    let status = &row.rollout.status;
    html! {
        tr {
            th scope="row" {
                a href=(rollout_address(name, row.number)) { (name) " · rollout " (row.number) }
            }
            td class="num" { (row.target) }
            td class="num" { (row.base) }
            td { (status_pill(status.word())) }
            td class="keep" { (ago(row.started)) small { "by " (person(&row.who)) } }
            td class="keep" { @if let Some(ended) = row.ended { (ago(ended)) } }
            td class="why" { (first_line(status.why().unwrap_or_default())) }
        }
    }
}
