//! Renders `/configurations/NAME/change`, a form to choose versions.

use deploy_store::{Configuration, ConfigurationName, Layer};
use maud::{Markup, html};

use super::layout::{Nav, Page, Part};
use super::phrases::rollout_line;
use super::policy_words::in_words;
use super::widgets::{ago, configuration_address, count, icon, nothing, section, table};
use crate::catalog::rollouts::NamedPolicy;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::fleet_document::ConfigurationStatus;
use crate::verbs::fleet_status::FleetQuery;

/// The form offers at most this many of each component's newest versions, and the current version.
const VERSIONS: u64 = 50;

/// What the form shows.
#[derive(Debug)]
struct Choice<'a> {
    now: &'a Configuration,
    /// The newest versions of each layer's component, newest first.
    versions: Vec<Vec<Layer>>,
    status: &'a ConfigurationStatus,
    policy: Option<&'a NamedPolicy>,
}

/// Renders the screen.
pub async fn page(registry: &Registry, name: &ConfigurationName) -> Result<Page, Problem> {
    let catalog = &registry.catalog;
    let now = catalog.configuration(name).await?;
    let mut versions = Vec::new();
    for layer in now.layers() {
        // If the component no longer exists, the form offers only the current version.
        let newest = match catalog.newest_versions(&layer.component, None, VERSIONS).await {
            Ok(newest) => newest.into_iter().rev().collect(),
            Err(crate::error::Error::NotFound(_)) => Vec::new(),
            Err(err) => return Err(err.into()),
        };
        versions.push(newest);
    }
    let query = FleetQuery { name: Some(name.clone()), limit: Some(0), ..FleetQuery::default() };
    let fleet = registry.fleet_status(&query).await?;
    let status = fleet.configurations.first().ok_or_else(Problem::not_found)?;
    let policies = catalog.policies().await?;
    let policy = policies.iter().find(|one| one.used_by.iter().any(|user| user == name.as_str()));
    let form = form(&Choice { now: &now, versions, status, policy });
    let title = format!("Change versions of {name}");
    Ok(Page::new(title, Nav::Configurations, vec![Part::Fixed(form)]))
}

fn form(choice: &Choice<'_>) -> Markup {
    let (name, status) = (choice.now.name(), choice.status);
    let here = configuration_address(name.as_str());
    html! {
        div class="narrow stack" {
            div class="title" {
                nav class="crumbs" aria-label="Path" {
                    a href="/configurations" { "Configurations" } " / " a href=(here) { (name) }
                }
                h1 { "Change versions of " (name) }
                p { "state " (status.state) " · " (count(status.hosts + status.unknown, "host")) }
            }
            form class="stack" method="get" action="/confirm" {
                input type="hidden" name="verb" value="changeconf";
                input type="hidden" name="name" value=(name.as_str());
                input type="hidden" name="if-hash" value=(choice.now.id());
                (versions(choice))
                (how(choice))
                div class="actions" {
                    button class="main" { "Continue" }
                    a href=(here) { "Cancel" }
                    small { "nothing changes yet: the next page shows the effects" }
                }
            }
        }
    }
}

fn versions(choice: &Choice<'_>) -> Markup {
    let head = html! {
        th scope="col" { "Layer" }
        th scope="col" { "Now" }
        th scope="col" { "New version" }
        th scope="col" { "Newest" }
    };
    let rows = html! {
        @for (place, (layer, offered)) in choice.now.layers().iter().zip(&choice.versions).enumerate() {
            (row(place, layer, offered))
        }
    };
    section("versions", "Versions", &nothing(), &table("versions", &head, &rows, &nothing())).html
}

fn row(place: usize, layer: &Layer, offered: &[Layer]) -> Markup {
    let id = format!("v-{place}");
    let is_offered = offered.iter().any(|one| one.version == layer.version);
    html! {
        tr {
            th scope="row" { label for=(id) { (layer.component) } }
            td { (layer.version) }
            td {
                input type="hidden" name="component" value=(layer.component.as_str());
                select id=(id) name="version" {
                    @for one in offered {
                        @let is_now = one.version == layer.version;
                        option value=(one.version.as_str()) selected[is_now] { (one.version) }
                    }
                    @if !is_offered {
                        option value=(layer.version.as_str()) selected { (layer.version) }
                    }
                }
            }
            td class="keep" {
                @if let Some(newest) = offered.first() {
                    (newest.version) " " small { (ago(newest.created)) }
                }
            }
        }
    }
}

/// The part of the form that says how the change reaches the hosts.
fn how(Choice { now, status, policy, .. }: &Choice<'_>) -> Markup {
    let hosts = count(status.hosts + status.unknown, "host");
    let body = html! {
        fieldset class="card pad stack" aria-labelledby="how-h" {
            @if let Some(rollout) = &status.rollout {
                div class="need warn" {
                    (icon("warn"))
                    div { (rollout_line(now.name().as_str(), rollout)) }
                }
                (check("supersede", "End this rollout", "and make this change instead"))
            }
            p {
                "In waves, a few hosts get the change first. The rollout halts by itself if too many "
                "hosts fail. "
                @match policy {
                    Some(one) => {
                        "Leave the fields empty to follow the policy " b { (one.name) } ": "
                        (in_words(&one.policy)) "."
                    }
                    None => {
                        "Leave all fields empty to change all hosts (" (hosts) ") together."
                    }
                }
            }
            div class="choice" {
                div class="sub" {
                    (field("waves", "Waves", "canary,10%,100%", "24"))
                    (field("soak", "Soak", "2m", "6"))
                    (field("max-failed", "Hosts that may fail", "2 or 2%", "8"))
                }
            }
            @if policy.is_some() {
                (check("at-once", "At once", &format!("all hosts ({hosts}) get the change now")))
            }
        }
    };
    section("how", "How", &nothing(), &body).html
}

fn field(name: &str, label: &str, example: &str, size: &str) -> Markup {
    html! {
        div class="field" {
            label for=(name) { (label) }
            input id=(name) name=(name) placeholder=(example) size=(size) autocomplete="off";
        }
    }
}

fn check(name: &str, label: &str, text: &str) -> Markup {
    html! {
        div class="choice" {
            input type="checkbox" id=(name) name=(name) value="true";
            label for=(name) { (label) }
            small { (text) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;

    fn layer(component: &str, version: &str) -> Layer {
        Layer {
            component: component.parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(version.as_bytes()),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    fn html(versions: Vec<Vec<Layer>>) -> String {
        let layers = vec![layer("code", "<v92>"), layer("<script>", "c41")];
        let name = "w&b".parse().unwrap();
        let now = Configuration::new(name, layers, Timestamp::UNIX_EPOCH).unwrap();
        let status = ConfigurationStatus {
            configuration: "w&b".into(),
            state: 14,
            hash: String::new(),
            rollout: None,
            hosts: 41,
            done: 41,
            behind: 0,
            failed: 0,
            absent: 0,
            held: 0,
            unknown: 0,
            phases: BTreeMap::new(),
            groups: std::collections::BTreeMap::new(),
        };
        form(&Choice { now: &now, versions, status: &status, policy: None }).into_string()
    }

    #[test]
    fn form_offers_versions_and_selects_the_current_one() {
        let html = html(vec![vec![layer("code", "v93"), layer("code", "<v92>")], vec![]]);
        for wanted in [
            "name=\"name\" value=\"w&amp;b\"",
            "name=\"if-hash\" value=\"",
            "<option value=\"v93\">v93</option>",
            "<option value=\"&lt;v92&gt;\" selected>&lt;v92&gt;</option>",
            // For the second component, no list of versions is given. So the form offers only the
            // version of the current state.
            "<option value=\"c41\" selected>c41</option>",
            "change all hosts (41 hosts) together",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<script>"), "{html}");
    }

    #[test]
    fn each_component_is_directly_before_its_version() {
        let html = html(vec![vec![], vec![]]);
        let fields = html.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next());
        let fields: Vec<&str> = fields.collect();
        let wanted = [
            "verb",
            "name",
            "if-hash",
            "component",
            "version",
            "component",
            "version",
            "waves",
            "soak",
            "max-failed",
        ];
        assert_eq!(fields, wanted);
    }
}
