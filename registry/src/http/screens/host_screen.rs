//! Renders `/hosts/NAME`, which shows what happened on one host.

mod deploy_course;
mod host_head;
mod running_layers;

use deploy_wire::fleet::HostName;
use maud::{Markup, html};

use self::running_layers::Running;
use super::layout::{Nav, Page, Part, Section};
use super::widgets::{confirm, nothing, section};
use crate::catalog::fleet::HostRow;
use crate::error::Error;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::fleet_status::FleetQuery;
use crate::verbs::why::WhyOne;

/// What the screen shows.
struct Doc {
    host: HostRow,
    /// The configurations of the host, with the data that the verb `why` shows.
    configurations: Vec<WhyOne>,
    /// The layers that the host runs, for each configuration.
    running: Vec<Running>,
    may_act: bool,
}

impl Doc {
    /// Renders a `part` for each configuration, and puts the parts below each other. If the host
    /// has several configurations, each part has the name of its configuration as a heading.
    fn each(&self, part: impl Fn(usize, &WhyOne) -> Markup) -> Markup {
        let all = &self.configurations;
        html! {
            div class="stack" {
                @for (place, one) in all.iter().enumerate() {
                    @if all.len() > 1 { h3 { (one.status.configuration) } }
                    (part(place, one))
                }
            }
        }
    }
}

/// Renders the screen.
pub async fn page(registry: &Registry, host: &HostName, may_act: bool) -> Result<Page, Problem> {
    let row = match registry.catalog.host(host).await {
        Err(Error::NotFound(why)) => return only_polls(registry, host, why).await,
        other => other?,
    };
    let configurations = match registry.why(host, None).await {
        Ok(why) => why.configurations,
        // The host's configurations have been deleted.
        Err(Error::NotFound(_)) => Vec::new(),
        Err(err) => return Err(err.into()),
    };
    let mut running = Vec::with_capacity(configurations.len());
    for one in &configurations {
        running.push(running_layers::read(registry, &one.status).await?);
    }
    let doc = Doc { host: row, configurations, running, may_act };
    let mut parts = vec![Part::One(host_head::head(&doc))];
    if !doc.configurations.is_empty() {
        parts.push(Part::Columns(vec![deploy_course::phases(&doc), output(&doc)]));
        parts.push(Part::One(running_layers::layers(&doc)));
        parts.push(Part::One(deploy_course::before(&doc)));
    }
    parts.push(Part::One(labels(&doc)));
    if may_act {
        parts.push(Part::Fixed(label_form(&doc.host.name)));
    }
    Ok(Page::new(doc.host.name.clone(), Nav::Fleet, parts))
}

/// The screen of an address from which an agent only polls. Such an agent has never reported.
async fn only_polls(registry: &Registry, host: &HostName, why: String) -> Result<Page, Problem> {
    let query = FleetQuery { host: Some(host.clone()), ..FleetQuery::default() };
    let mut found = registry.fleet_status(&query).await?.hosts;
    found.retain(|one| one.host == host.as_str());
    if found.is_empty() {
        return Err(Error::NotFound(why).into());
    }
    let part = Part::One(host_head::polling_head(&found));
    Ok(Page::new(host.to_string(), Nav::Fleet, vec![part]))
}

fn output(doc: &Doc) -> Section {
    let body = doc.each(|_, one| {
        let is_shown = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
        let text: String = one.output.chars().filter(is_shown).collect();
        html! {
            div class="card" {
                @if text.is_empty() {
                    div class="empty" {
                        p class="dim" { "The host has not reported any output of the last deploy." }
                    }
                } @else {
                    pre class="out" tabindex="0" { (text) }
                }
            }
        }
    });
    section("output", "End of the output", &nothing(), &body)
}

fn labels(doc: &Doc) -> Section {
    let HostRow { name, key, labels, .. } = &doc.host;
    let body = html! {
        div class="card pad" {
            dl class="list" {
                @for (label, value) in labels {
                    dt { (label) }
                    dd {
                        (value)
                        @if doc.may_act {
                            " "
                            @let flags = [("host", name.as_str()), ("label", label)];
                            a href=(confirm("host label", &flags)) { "Remove…" }
                        }
                    }
                }
                @if !labels.contains_key("group") {
                    dt { "group" }
                    dd class="dim" {
                        "none; to put the host in a group, type: "
                        code { "ssh registry host label " (name) " group=canary" }
                    }
                }
                dt { "key" }
                dd { span class="mono" { (key) } }
            }
        }
    };
    section("labels", "Labels", &nothing(), &body)
}

fn label_form(host: &str) -> Markup {
    html! {
        form class="filter" method="get" action="/confirm" {
            input type="hidden" name="verb" value="host label";
            input type="hidden" name="host" value=(host);
            label { "Set a label "
                input name="label" required placeholder="group=canary" size="20" autocomplete="off";
            }
            button { "Set…" }
        }
    }
}

/// The CSS class for the colour of a phase.
fn class_of(phase: &str) -> &'static str {
    match phase {
        "healthy" => "good",
        "failed" | "rolled_back" => "bad",
        "held" | "unknown" => "off",
        _ => "work",
    }
}

/// Whether the last deploy failed.
fn has_failed(status: &HostStatus) -> bool {
    class_of(status.phase) == "bad"
}

#[cfg(test)]
mod tests;
