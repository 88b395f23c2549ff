//! Draws what takes the space: a rectangle for each large version, grouped by component.

use maud::{Markup, html};

use super::squarify::{Rect, squarify};
use crate::catalog::Space;
use crate::http::screens::widgets::{component_address, count, size};

/// The size of the drawing.
const WHOLE: Rect = Rect { x: 0.0, y: 0.0, width: 1200.0, height: 300.0 };
/// The approximate width of a character, in units of the drawing.
const CHARACTER: f64 = 7.5;

/// A rectangle that stands for bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tile {
    text: String,
    bytes: u64,
    class: &'static str,
}

/// The tiles of one component. If a group has no component, its tiles stand for all other files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    component: Option<String>,
    tiles: Vec<Tile>,
}

/// The drawing.
pub fn tree_map(space: &Space) -> Markup {
    let groups = groups(space);
    let bytes = |group: &Group| group.tiles.iter().map(|tile| tile.bytes).sum::<u64>();
    let weights: Vec<f64> = groups.iter().map(|group| real(bytes(group))).collect();
    let places = squarify(&weights, WHOLE);
    html! {
        svg class="map" viewBox="0 0 1200 300" role="group" aria-label="Space by component and version" {
            @for (group, place) in groups.iter().zip(places) {
                @let weights: Vec<f64> = group.tiles.iter().map(|tile| real(tile.bytes)).collect();
                @for (tile, place) in group.tiles.iter().zip(squarify(&weights, place)) {
                    @match &group.component {
                        Some(name) => a href=(component_address(name)) { (drawn(tile, place)) },
                        None => (drawn(tile, place)),
                    }
                }
            }
        }
    }
}

/// What the colours mean. gc keeps the newest `kept` versions of each component. With 0, gc keeps
/// all versions.
pub fn legend(kept: usize) -> Markup {
    let rule = match kept {
        0 => String::new(),
        1 => ": gc removes the version when there is a newer version".to_owned(),
        _ => format!(": gc removes the version when there are {kept} newer versions"),
    };
    let items = [
        (None, "needed by a state or a pin".to_owned()),
        (Some("unused"), format!("needed by no state and no pin{rule}")),
        (Some("rest"), "small versions together".to_owned()),
    ];
    html! {
        ul class="legend plain" {
            @for (class, text) in items {
                li {
                    svg class="map" viewBox="0 0 16 16" aria-hidden="true" {
                        rect class=[class] width="16" height="16" rx="3" {}
                    }
                    (text)
                }
            }
        }
    }
}

fn groups(space: &Space) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut others = space.all;
    for component in &space.components {
        let name = &component.component;
        others.bytes = others.bytes.saturating_sub(component.blobs.bytes);
        others.blobs = others.blobs.saturating_sub(component.blobs.blobs);
        let mut rest = component.blobs;
        let mut tiles = Vec::new();
        for version in space.versions.iter().filter(|version| version.component == *name) {
            rest.bytes = rest.bytes.saturating_sub(version.bytes);
            rest.blobs = rest.blobs.saturating_sub(1);
            let class = if version.needed { "" } else { "unused" };
            let text = format!("{name} {}", version.version);
            tiles.push(Tile { text, bytes: version.bytes, class });
        }
        let text = if tiles.is_empty() {
            format!("{name}: {}", count(rest.blobs, "version"))
        } else {
            format!("{name}: {} more", rest.blobs)
        };
        tiles.push(Tile { text, bytes: rest.bytes, class: "rest" });
        groups.push(Group { component: Some(name.clone()), tiles });
    }
    let text = count(others.blobs, "other file");
    let tiles = vec![Tile { text, bytes: others.bytes, class: "rest" }];
    groups.push(Group { component: None, tiles });
    for group in &mut groups {
        group.tiles.retain(|tile| tile.bytes > 0);
    }
    groups.retain(|group| !group.tiles.is_empty());
    groups
}

fn drawn(tile: &Tile, place: Rect) -> Markup {
    let Rect { x, y, width, height } = place;
    let of = size(tile.bytes);
    let number = if tile.class == "unused" { format!("{of}, not needed") } else { of.clone() };
    let fits = |text: &str, lines: f64| {
        let characters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        width > f64::from(characters) * CHARACTER + 16.0 && height > lines
    };
    let class = Some(tile.class).filter(|class| !class.is_empty());
    let at = |shift: f64| format!("{:.0}", y + shift);
    let left = format!("{:.0}", x + 8.0);
    html! {
        rect class=[class] x=(tenths(x)) y=(tenths(y)) width=(tenths(width)) height=(tenths(height)) rx="4" {
            title { (tile.text) ": " (number) }
        }
        @if fits(&tile.text, 24.0) {
            text x=(left) y=(at(19.0)) { (tile.text) }
            @if fits(&number, 44.0) {
                text class="n" x=(left) y=(at(36.0)) { (number) }
            } @else if fits(&of, 44.0) {
                text class="n" x=(left) y=(at(36.0)) { (of) }
            }
        }
    }
}

fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

#[expect(clippy::cast_precision_loss, reason = "the drawing needs only a thousandth of the width")]
fn real(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{BlobCount, ComponentSpace, VersionSpace};

    fn space() -> Space {
        let component = |name: &str, blobs, bytes| ComponentSpace {
            component: name.to_owned(),
            blobs: BlobCount { blobs, bytes },
        };
        let version = |component: &str, version: &str, bytes, needed| VersionSpace {
            component: component.to_owned(),
            version: version.to_owned(),
            bytes,
            needed,
        };
        Space {
            all: BlobCount { blobs: 20, bytes: 2000 },
            components: vec![component("image", 3, 1500), component("code", 9, 300)],
            versions: vec![
                version("image", "<script>alert(1)</script>", 1000, true),
                version("image", "v2", 400, false),
                version("gone", "v1", 50, true),
            ],
        }
    }

    #[test]
    fn tile_sizes_add_up_to_all_bytes() {
        let groups = groups(&space());
        let tiles: Vec<_> = groups.iter().flat_map(|group| &group.tiles).collect();
        let short: Vec<_> =
            tiles.iter().map(|tile| (&*tile.text, tile.bytes, tile.class)).collect();
        assert_eq!(
            short,
            [
                ("image <script>alert(1)</script>", 1000, ""),
                ("image v2", 400, "unused"),
                ("image: 1 more", 100, "rest"),
                ("code: 9 versions", 300, "rest"),
                ("8 other files", 200, "rest"),
            ]
        );
    }

    #[test]
    fn drawing_escapes_names_and_links_components() {
        let html = tree_map(&space()).into_string();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"), "{html}");
        assert_eq!(html.matches("<rect").count(), 5, "{html}");
        assert_eq!(html.matches("<a href=\"/components/image\">").count(), 3, "{html}");
        assert!(!tree_map(&Space::default()).into_string().contains("<rect"));
    }
}
