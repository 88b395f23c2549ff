//! Renders `/store`, which shows what takes space.

mod day_plots;
mod gc_table;
mod squarify;
mod tree_map;

use std::sync::Arc;

use deploy_store::Digest;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::layout::{Nav, Page, Part, Section};
use super::widgets::{ago, component_address, count, icon, nothing, section, size};
use crate::catalog::Reference;
use crate::fleet::recent_deploys::{self, Deployed};
use crate::free_space::Sample;
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::store_survey::Survey;
use crate::verbs::stat::Stat;

/// The screen names at most this many damaged files.
const DAMAGED: u32 = 3;

/// What the screen shows.
struct Doc {
    stat: Stat,
    survey: Arc<Survey>,
    /// Some damaged files, each with the references to the file.
    damaged: Vec<(Digest, Vec<Reference>)>,
    samples: Vec<Sample>,
    deploys: Vec<Deployed>,
    /// When the registry began to record deploys.
    started: Timestamp,
    edge: Timestamp,
    /// gc keeps this many versions of each component. With 0, gc keeps all versions.
    kept_versions: usize,
}

/// Renders the screen.
pub async fn page(registry: &Registry) -> Result<Page, Problem> {
    let stat = registry.stat().await?;
    let survey = registry.survey(&stat).await?;
    let mut damaged = Vec::new();
    if stat.damaged > 0 {
        for digest in registry.catalog.damaged_blobs(DAMAGED).await? {
            damaged.push((digest, registry.catalog.references_of(digest).await?));
        }
    }
    let edge = day_plots::right_edge(Timestamp::now());
    let doc = Doc {
        stat,
        survey,
        damaged,
        samples: registry.free_space.samples(),
        deploys: registry.fleet.deploys.since(edge - SignedDuration::from_hours(24)),
        started: registry.fleet.started,
        edge,
        kept_versions: registry.settings.max_versions,
    };
    let parts = vec![
        Part::One(head(&doc)),
        Part::One(space(&doc)),
        Part::Columns(vec![free(&doc), deploys(&doc)]),
        Part::Columns(vec![gc_table::gc_section(doc.survey.gc.as_ref()), verify(&doc)]),
    ];
    Ok(Page::new("Store", Nav::Store, parts))
}

fn head(doc: &Doc) -> Section {
    let Stat { blobs, free, .. } = &doc.stat;
    let files = count(blobs.blobs, "file");
    let html = html! {
        section id="store" aria-labelledby="store-h" class="stack" {
            div class="title" {
                h1 id="store-h" { "Store" }
                p { (size(blobs.bytes)) " in " (files) ", " (size(*free)) " free" }
            }
            @if doc.stat.damaged > 0 { ul class="needs" { (damage(doc)) } }
            (facts(&doc.stat))
        }
    };
    Section { id: "store", html }
}

fn damage(doc: &Doc) -> Markup {
    let number = doc.stat.damaged;
    let are = if number == 1 { "is" } else { "are" };
    let hits: Vec<String> =
        doc.damaged.iter().flat_map(|(_, references)| references.iter().map(hit)).collect();
    let component = doc.damaged.iter().flat_map(|(_, all)| all).find_map(|one| match one {
        Reference::Version { component, .. } => Some(component.as_str()),
        _ => None,
    });
    html! {
        li class="need warn" {
            (icon("warn"))
            div {
                b { (count(number, "file")) " " (are) " damaged" }
                @if !hits.is_empty() { ": " (hits.join(", ")) }
                small {
                    @for (digest, _) in &doc.damaged { "files/" (short(digest)) "… · " }
                    "to restore a damaged file, upload the same archive again"
                }
            }
            @if let Some(name) = component { a href=(component_address(name)) { (name) } }
        }
    }
}

/// A reference as one phrase.
fn hit(reference: &Reference) -> String {
    match reference {
        Reference::Current { configuration, number }
        | Reference::RollbackTarget { configuration, number } => {
            format!("{configuration} state {number}")
        }
        Reference::Pin { component, version, .. } => format!("pin of {component} {version}"),
        Reference::Version { component, version } => format!("{component} {version}"),
    }
}

fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(8).collect()
}

fn facts(stat: &Stat) -> Markup {
    let Stat { counts, blobs, .. } = stat;
    html! {
        dl class="facts" {
            (fact("Components", &html! { (counts.components) }, ""))
            (fact("Versions", &html! { (counts.versions) }, &format!("{} pinned", counts.pins)))
            (fact("Configurations", &html! { (counts.configurations) }, &count(counts.states, "state")))
            (fact("Files", &html! { (blobs.blobs) },
                &format!("{}, dedupe ratio {:.2}", size(blobs.bytes), stat.dedupe_ratio())))
            (fact("Free", &html! { (size(stat.free)) }, &transfers(stat)))
            @if stat.damaged > 0 {
                (fact("Damaged", &html! { span class="bad" { (stat.damaged) } }, "in quarantine"))
            } @else {
                (fact("Damaged", &html! { "0" }, ""))
            }
            @match &stat.gc {
                Some(gc) => (fact("Last gc", &ago(gc.time), &format!("{} freed", size(gc.blobs.bytes)))),
                None => (fact("Last gc", &html! { "never" }, "")),
            }
            @match &stat.verify {
                Some(verify) => (fact("Last verify", &ago(verify.time),
                    if verify.complete { "all files read" } else { "not all files read" })),
                None => (fact("Last verify", &html! { "never" }, "")),
            }
        }
    }
}

fn transfers(stat: &Stat) -> String {
    format!("{}, {}", count(stat.staged.files, "upload"), count(stat.downloads, "download"))
}

fn fact(term: &str, value: &Markup, below: &str) -> Markup {
    html! {
        div { dt { (term) } dd { (value) @if !below.is_empty() { small { (below) } } } }
    }
}

fn space(doc: &Doc) -> Section {
    let space = &doc.survey.space;
    if space.all.bytes == 0 {
        let body = html! {
            div class="card empty" {
                p { "The store is empty. Upload the first version of a component:" }
                code class="shell" { "ssh registry put -name code -version v1 < code.tgz" }
            }
        };
        return section("space", "What takes the space", &nothing(), &body);
    }
    let beside = html! { a href="/components" { "as a table" } };
    let body = html! {
        div class="card pad stack wide" { (tree_map::tree_map(space)) (tree_map::legend(doc.kept_versions)) }
    };
    section("space", "What takes the space", &beside, &body)
}

fn free(doc: &Doc) -> Section {
    let beside = html! {
        @if let (Some((since, _)), Some((_, last))) = (doc.samples.first(), doc.samples.last()) {
            p { (size(*last)) ", one sample every 5 minutes, first sample: " (ago(*since)) }
        }
    };
    let body = if doc.samples.len() < 2 {
        html! {
            div class="card empty" {
                p { "The registry records the free space every 5 minutes, and keeps each sample "
                    "for a day. The chart appears after the second sample." }
            }
        }
    } else {
        day_plots::free_space(&doc.samples, doc.edge)
    };
    section("free", "Free space", &beside, &body)
}

fn deploys(doc: &Doc) -> Section {
    let Doc { deploys, started, edge, .. } = doc;
    let begin = if deploys.len() == recent_deploys::MOST {
        deploys.first().map_or(*started, |first| first.time)
    } else {
        (*started).max(*edge - SignedDuration::from_hours(24))
    };
    let beside = html! { p { (day_plots::summary(deploys)) ", since " (ago(begin)) } };
    let body = if deploys.is_empty() {
        html! {
            div class="card empty" {
                p { "No host has reported a deploy in this time. The registry keeps at most "
                    (recent_deploys::MOST) " deploys in memory, and loses them when it stops. The "
                    "page of a host also has earlier deploys." }
            }
        }
    } else {
        day_plots::deploys(deploys, *edge)
    };
    section("deploys", "Deploys", &beside, &body)
}

fn verify(doc: &Doc) -> Section {
    let body = html! {
        div class="card pad stack" {
            @match &doc.stat.verify {
                Some(verify) => {
                    @let part = if verify.complete { "" } else { ", not all files" };
                    p { (count(verify.blobs, "file")) " read" (part) ", " (size(verify.bytes)) ": "
                        (verify.damaged) " damaged, " (ago(verify.time)) }
                },
                None => p { "No verification has ended yet." },
            }
            p { "To read all files now, and to list the versions with damaged files, type:" }
            code class="shell" { "ssh registry verify" }
        }
    };
    section("verify", "Last verify", &nothing(), &body)
}
