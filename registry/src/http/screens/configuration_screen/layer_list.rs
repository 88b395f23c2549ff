//! Lists the layers of the current state: versions, sizes, and the newest version of each
//! component.

use deploy_store::Configuration;
use maud::{Markup, html};

use crate::catalog::CurrentLayer;
use crate::http::screens::layout::Section;
use crate::http::screens::widgets::{
    ago, component_address, nothing, pill, section as framed, size, table,
};

/// Renders the section.
pub fn section(number: u64, configuration: &Configuration, layers: &[CurrentLayer]) -> Section {
    let head = html! {
        th scope="col" { "Layer" }
        th scope="col" { "Version" }
        th scope="col" class="num" { "Size" }
        th scope="col" { "Newest" }
    };
    let rows = html! { @for layer in layers { (row(layer)) } };
    let short = &configuration.id().to_string()[..12];
    let beside = html! { p class="mono" { (short) "…" } };
    let heading = format!("Layers of state {number}");
    framed("layers", &heading, &beside, &table("layers", &head, &rows, &nothing()))
}

fn row(CurrentLayer { layer, bytes, is_damaged, newest }: &CurrentLayer) -> Markup {
    let is_newest = newest.as_ref().is_some_and(|newest| newest.version == layer.version);
    html! {
        tr {
            th scope="row" {
                a href=(component_address(layer.component.as_str())) { (layer.component) }
            }
            td { (layer.version) }
            td class="num" {
                @match bytes {
                    _ if *is_damaged => (pill("bad", "damaged")),
                    Some(bytes) => (size(*bytes)),
                    None => (pill("bad", "missing")),
                }
            }
            td {
                @match newest {
                    Some(_) if is_newest => { span class="dim" { "this one" } }
                    Some(newest) => { (newest.version) small { (ago(newest.created)) } }
                    None => { span class="dim" { "none" } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::{Digest, Layer};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn layers_show_sizes_and_newer_versions() {
        let layer = |version: &str| Layer {
            component: "<i>".parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(version.as_bytes()),
            created: Timestamp::UNIX_EPOCH,
        };
        let one = |bytes, is_damaged, newest: &str| CurrentLayer {
            layer: layer("v1"),
            bytes,
            is_damaged,
            newest: Some(layer(newest)),
        };
        let text = row(&one(Some(2048), false, "v2")).into_string();
        assert!(text.contains("2 KiB") && text.contains("v2") && !text.contains("<i>"), "{text}");
        let text = row(&one(None, false, "v1")).into_string();
        assert!(text.contains("missing") && text.contains("this one"), "{text}");
        assert!(row(&one(Some(1), true, "v1")).into_string().contains("damaged"));
    }
}
