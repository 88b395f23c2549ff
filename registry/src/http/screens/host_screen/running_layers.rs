//! Shows the layers that a host runs, and the layers that it has to deploy.

use deploy_store::{Configuration, ConfigurationName, Digest};
use maud::{Markup, html};

use super::Doc;
use crate::error::Error;
use crate::http::problem::Problem;
use crate::http::screens::layout::Section;
use crate::http::screens::widgets::{component_address, nothing, pill, section, size, table};
use crate::registry::Registry;
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::state_diff;

/// The layers of one configuration on the host.
#[derive(Debug, Default)]
pub struct Running {
    /// The number of the state that the host runs, if the registry still has the state.
    pub runs: Option<u64>,
    /// The number of the state that the host has to deploy, if the host runs another state.
    pub wants: Option<u64>,
    /// The layers of the state to deploy, in their order, and then the layers that this state
    /// removes. If the host has nothing to deploy, the layers that the host runs.
    pub layers: Vec<LayerOnHost>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOnHost {
    /// The component.
    pub component: String,
    /// The version that the host runs; `None` if the host runs no such layer, or if the registry no
    /// longer has the state.
    pub runs: Option<String>,
    /// The version that the host has to deploy; `None` if the host has to remove the layer, or has
    /// nothing to deploy.
    pub wants: Option<String>,
    /// Whether the deploy adds, removes or replaces the layer.
    pub changes: bool,
    /// The size of the blob that the host has to download, in bytes; `None` if the layer stays the
    /// same or is removed, or if the blob is missing.
    pub bytes: Option<u64>,
}

/// Reads the layers of one configuration of the host.
pub async fn read(registry: &Registry, status: &HostStatus) -> Result<Running, Problem> {
    let name: ConfigurationName = status.configuration.parse().map_err(Error::from)?;
    let runs = find(registry, &name, status.runs).await?;
    let wants = if status.wants == status.runs {
        None
    } else {
        find(registry, &name, status.wants).await?
    };
    let mut running = compared(runs.as_ref(), wants.as_ref());
    running.runs = runs.and(status.runs);
    running.wants = wants.as_ref().and(status.wants);
    for layer in running.layers.iter_mut().filter(|layer| layer.changes) {
        let wanted = wants.iter().flat_map(Configuration::layers);
        let found = wanted.into_iter().find(|it| it.component.as_str() == layer.component);
        if let Some(digest) = found.map(|it| it.digest) {
            layer.bytes = bytes(registry, digest).await?;
        }
    }
    Ok(running)
}

async fn bytes(registry: &Registry, digest: Digest) -> Result<Option<u64>, Problem> {
    Ok(registry.blobs().size(digest).await?)
}

/// A state, if the registry still has it.
async fn find(
    registry: &Registry,
    name: &ConfigurationName,
    number: Option<u64>,
) -> Result<Option<Configuration>, Problem> {
    let Some(number) = number else { return Ok(None) };
    match registry.catalog.state(name, number).await {
        Ok(state) => Ok(Some(state)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// The layers of the state that the host runs, and of the state that it has to deploy.
fn compared(runs: Option<&Configuration>, wants: Option<&Configuration>) -> Running {
    let changes = match (runs, wants) {
        (Some(runs), Some(wants)) => state_diff::layers(runs, wants).0,
        _ => Vec::new(),
    };
    let version_in = |state: Option<&Configuration>, component: &str| {
        let layers = state?.layers();
        let found = layers.iter().find(|layer| layer.component.as_str() == component)?;
        Some(found.version.to_string())
    };
    let layer = |component: &str| LayerOnHost {
        component: component.to_owned(),
        runs: version_in(runs, component),
        wants: version_in(wants, component),
        changes: changes.iter().any(|change| change.component.as_str() == component),
        bytes: None,
    };
    let after = wants.or(runs);
    let mut layers: Vec<LayerOnHost> = after
        .into_iter()
        .flat_map(Configuration::layers)
        .map(|one| layer(one.component.as_str()))
        .collect();
    let removed = changes.iter().filter(|change| change.to.is_none());
    layers.extend(removed.map(|change| layer(change.component.as_str())));
    Running { runs: None, wants: None, layers }
}

/// Renders the section with the layers of the host.
pub fn layers(doc: &Doc) -> Section {
    let body = doc.each(|place, _| match doc.running.get(place) {
        Some(running) if !running.layers.is_empty() => layers_table(running),
        _ => html! {
            div class="card empty" {
                p class="dim" { "The registry does not know which layers the host runs." }
            }
        },
    });
    section("layers", "Layers of the host", &nothing(), &body)
}

fn layers_table(running: &Running) -> Markup {
    let Running { runs, wants, layers } = running;
    let head = html! {
        th scope="col" { "Layer" }
        @if let Some(number) = runs { th scope="col" { "Runs: state " (number) } }
        @if let Some(number) = wants {
            th scope="col" { "Wants: state " (number) }
            th scope="col" class="num" { "Size of the change" }
        }
    };
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "–".to_owned());
    let rows = html! {
        @for layer in layers {
            tr {
                th scope="row" {
                    a href=(component_address(&layer.component)) { (layer.component) }
                }
                @if runs.is_some() { td { (version(&layer.runs)) } }
                @if wants.is_some() {
                    td {
                        @if layer.changes {
                            b { (version(&layer.wants)) } " " (pill("work", "changes"))
                        } @else {
                            (version(&layer.wants))
                        }
                    }
                    td class="num" { (layer.bytes.map_or_else(|| "–".to_owned(), size)) }
                }
            }
        }
    };
    table("layers", &head, &rows, &nothing())
}
