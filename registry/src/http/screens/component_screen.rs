//! Renders `/components/NAME`, which shows the versions of one component.

use deploy_store::{ComponentName, Layer, VersionName};
use maud::{Markup, html};

use super::layout::{Nav, Page, Part, Section};
use super::widgets::{
    address, ago, component_address, configuration_address, confirm, count, nothing, pill, section,
    size, table,
};
use crate::catalog::{BlobRow, Reference, VersionsTotal};
use crate::http::problem::Problem;
use crate::registry::Registry;

/// A page shows at most this many versions.
const PAGE: usize = 50;
/// A page shows at most this many references to each version's file.
const REFERENCES: usize = 5;

/// A version on the page.
#[derive(Debug)]
struct Row {
    layer: Layer,
    /// The catalogue's row for the version's file. `None` if the file is missing.
    blob: Option<BlobRow>,
    /// References to the file: all of them, or at least one more than the page shows.
    references: Vec<Reference>,
}

/// Renders the screen.
pub async fn page(
    registry: &Registry,
    name: &ComponentName,
    before: Option<&VersionName>,
    may_act: bool,
) -> Result<Page, Problem> {
    let catalog = &registry.catalog;
    let mut layers = catalog.newest_versions(name, before, PAGE as u64 + 1).await?;
    layers.reverse();
    let has_older = layers.len() > PAGE;
    layers.truncate(PAGE);
    let total = catalog.component_total(name).await?;
    let mut rows = Vec::new();
    for layer in layers {
        let blob = catalog.blob(layer.digest).await?;
        let references = catalog.first_references(layer.digest, REFERENCES as u64 + 2).await?;
        rows.push(Row { layer, blob, references });
    }
    let title = html! {
        div class="title" {
            nav class="crumbs" aria-label="Path" { a href="/components" { "Components" } }
            h1 { (name) }
        }
    };
    let list = list(name, &rows, total, (before.is_some(), has_older), may_act);
    Ok(Page::new(name.to_string(), Nav::Components, vec![Part::Fixed(title), Part::One(list)]))
}

fn list(
    name: &ComponentName,
    rows: &[Row],
    total: VersionsTotal,
    (is_later, has_older): (bool, bool),
    may_act: bool,
) -> Section {
    let beside = html! { p { (count(total.versions, "version")) ", " (size(total.bytes)) } };
    if rows.is_empty() && !is_later {
        let body = html! {
            div class="card empty" {
                p { "The component has no version. Upload an archive as a version:" }
                code class="shell" {
                    "deployctl addver -name " (deploy_wire::command::quote(name.as_str()))
                    " -version v1 -dir build"
                }
            }
        };
        return section("versions", "Versions", &nothing(), &body);
    }
    let head = html! {
        th scope="col" { "Version" }
        th scope="col" class="num" { "Size" }
        th scope="col" { "Uploaded" }
        th scope="col" { "References" }
        @if may_act { th scope="col" { "Actions" } }
    };
    let body = html! { @for one in rows { (row(one, may_act)) } };
    let here = component_address(name.as_str());
    let below = html! {
        @if has_older || is_later {
            span { (rows.len()) " of " (count(total.versions, "version")) ", newest first" }
            @if is_later { a href=(here) { "newest" } }
            @if let Some(last) = rows.last().filter(|_| has_older) {
                a href=(address(&here, &[("before", last.layer.version.as_str())])) { "older" }
            }
        }
    };
    section("versions", "Versions", &beside, &table("versions", &head, &body, &below))
}

fn row(Row { layer, blob, references }: &Row, may_act: bool) -> Markup {
    let flags = [("name", layer.component.as_str()), ("version", layer.version.as_str())];
    let is_pinned = references.iter().any(|one| pin_of(one, layer).is_some());
    html! {
        tr {
            th scope="row" { (layer.version) }
            td class="num" { @if let Some(blob) = blob { (size(blob.bytes)) } }
            td class="keep" { (ago(layer.created)) }
            td class="why" {
                @match blob {
                    None => { (pill("bad", "missing")) " " }
                    Some(blob) if blob.damaged => { (pill("bad", "damaged")) " " }
                    Some(_) => {}
                }
                (uses(layer, references))
            }
            @if may_act {
                td class="keep" {
                    @if is_pinned { a href=(confirm("unpin", &flags)) { "Unpin…" } }
                    @else { a href=(confirm("pin", &flags)) { "Pin…" } }
                }
            }
        }
    }
}

/// The message of the pin, if the reference is the pin of this version.
fn pin_of<'a>(reference: &'a Reference, layer: &Layer) -> Option<&'a str> {
    match reference {
        Reference::Pin { component, version, message }
            if *component == layer.component && *version == layer.version =>
        {
            Some(message)
        }
        _ => None,
    }
}

/// The references to the version's file, apart from the reference of the version itself.
fn uses(layer: &Layer, references: &[Reference]) -> Markup {
    let is_itself = |one: &&Reference| {
        matches!(one, Reference::Version { component, version }
            if *component == layer.component && *version == layer.version)
    };
    let all: Vec<&Reference> = references.iter().filter(|one| !is_itself(one)).collect();
    html! {
        @if all.is_empty() { span class="dim" { "nothing" } }
        @for (place, one) in all.iter().take(REFERENCES).enumerate() {
            @if place > 0 { " · " }
            (reference(one))
        }
        @if all.len() > REFERENCES { " · and more" }
    }
}

fn reference(reference: &Reference) -> Markup {
    let state = |class, word, configuration: &deploy_store::ConfigurationName, number| {
        html! {
            (pill(class, word)) " "
            a href=(configuration_address(configuration.as_str())) { (configuration) }
            " state " (number)
        }
    };
    match reference {
        Reference::Current { configuration, number } => {
            state("good", "current", configuration, number)
        }
        Reference::RollbackTarget { configuration, number } => {
            state("off", "rollback", configuration, number)
        }
        Reference::Pin { component, version, message } => html! {
            (pill("warn", "pinned")) " "
            @if message.is_empty() { (component) " " (version) } @else { "“" (message) "”" }
        },
        Reference::Version { component, version } => html! {
            "the same file as "
            a href=(component_address(component.as_str())) { (component) " " (version) }
        },
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;

    fn version_row(version: &str, references: Vec<Reference>) -> Row {
        let digest = Digest::of(version.as_bytes());
        let layer = Layer {
            component: "code".parse().unwrap(),
            version: version.parse().unwrap(),
            digest,
            created: Timestamp::UNIX_EPOCH,
        };
        Row { layer, blob: Some(BlobRow { digest, bytes: 2048, damaged: false }), references }
    }

    fn itself(version: &str) -> Reference {
        let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
        Reference::Version { component, version }
    }

    #[test]
    fn references_are_those_of_the_verb_refs() {
        let current =
            |name: &str| Reference::Current { configuration: name.parse().unwrap(), number: 15 };
        let text = row(&version_row("v1", vec![current("<script>"), itself("v1")]), false);
        let text = text.into_string();
        assert!(text.contains("current") && text.contains("&lt;script&gt;</a> state 15"), "{text}");
        assert!(!text.contains("<script>") && !text.contains("/confirm"), "{text}");
        let text = row(&version_row("v1", vec![itself("v1")]), true).into_string();
        assert!(text.contains("nothing") && text.contains("verb=pin&amp;name=code"), "{text}");
        let many = (0..=REFERENCES).map(|number| current(&format!("c{number}"))).collect();
        assert!(row(&version_row("v1", many), false).into_string().contains("and more"));
    }

    #[test]
    fn only_a_pinned_version_can_be_unpinned() {
        let pin = |version: &str| Reference::Pin {
            component: "code".parse().unwrap(),
            version: version.parse().unwrap(),
            message: "<b>".into(),
        };
        let text = row(&version_row("v1", vec![pin("v1")]), true).into_string();
        assert!(text.contains("verb=unpin") && text.contains("“&lt;b&gt;”"), "{text}");
        // Another version with the same file is pinned.
        let text = row(&version_row("v1", vec![pin("v2")]), true).into_string();
        assert!(text.contains("verb=pin&amp;"), "{text}");
    }

    #[test]
    fn damaged_and_missing_files_are_marked() {
        let mut one = version_row("v1", Vec::new());
        one.blob.as_mut().unwrap().damaged = true;
        assert!(row(&one, false).into_string().contains("damaged"));
        one.blob = None;
        assert!(row(&one, false).into_string().contains("missing"));
    }

    #[test]
    fn page_links_to_older_versions() {
        let total = VersionsTotal { versions: 93, bytes: 1 << 30 };
        let rows = [version_row("v 93", Vec::new())];
        let name = "code".parse().unwrap();
        let html = list(&name, &rows, total, (false, true), false).html.into_string();
        assert!(html.contains("/components/code?before=v+93"), "{html}");
        assert!(html.contains("93 versions, 1 GiB"), "{html}");
    }
}
