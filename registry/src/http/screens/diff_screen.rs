//! Renders `/configurations/NAME/diff`, which shows what differs between two states. The page is
//! not live, because states never change, and a comparison of their files reads whole archives.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use deploy_store::{Configuration, ConfigurationName, Digest, How, VersionName, escape};
use maud::{Markup, html};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::layout::{Nav, Page, Part};
use super::widgets::{
    component_address, configuration_address, count, nothing, section, size, table,
};
use crate::http::problem::Problem;
use crate::registry::Registry;
use crate::verbs::state_diff::{LayerChange, layers};

/// The page lists at most this many files.
const FILES: usize = 500;
/// Each list of the form has at most this many of the newest states, and also the two compared
/// states.
const STATES: u64 = 50;
/// How long a request waits for the end of another request's comparison.
const PATIENCE: Duration = Duration::from_secs(5);

/// For this page, the registry compares the files of one pair of states at a time. So requests for
/// the page leave enough threads for the checks of uploads.
static COMPARING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// A file that differs: its escaped path, and the kind of difference.
type File = (String, How);

/// What the page shows.
#[derive(Debug)]
struct Difference<'a> {
    name: &'a ConfigurationName,
    from: u64,
    to: u64,
    layers: Vec<LayerChange>,
    reordered: bool,
    /// The files that differ, or the reason why the page does not compare files.
    files: Result<Vec<File>, String>,
    /// The sizes in bytes of the blobs of the layers that differ. A missing blob has no entry.
    sizes: HashMap<Digest, u64>,
    /// The numbers of the states to choose from, newest first.
    states: Vec<u64>,
}

/// Renders the screen.
pub async fn page(
    registry: &Registry,
    name: &ConfigurationName,
    from: Option<u64>,
    to: Option<u64>,
) -> Result<Page, Problem> {
    let (from, to) = registry.catalog.two_states(name, from, to).await?;
    let (layers, reordered) = layers(&from.1, &to.1);
    let mut sizes = HashMap::new();
    for layer in &layers {
        for digest in [&layer.from, &layer.to].into_iter().flatten().map(|(_, digest)| *digest) {
            if let Some(blob) = registry.catalog.blob(digest).await? {
                sizes.insert(digest, blob.bytes);
            }
        }
    }
    let states = registry.catalog.history(name, None, STATES).await?;
    let mut numbers: BTreeSet<u64> = states.iter().map(|state| state.number).collect();
    numbers.extend([from.0, to.0]);
    let files = files(registry, &from.1, &to.1).await;
    let difference = Difference {
        name,
        from: from.0,
        to: to.0,
        layers,
        reordered,
        files,
        sizes,
        states: numbers.into_iter().rev().collect(),
    };
    let title = format!("{name}: state {} to {}", from.0, to.0);
    let parts = vec![
        Part::Fixed(head(&difference, &title)),
        Part::Fixed(layer_table(&difference)),
        Part::Fixed(file_table(&difference)),
    ];
    Ok(Page::new(title, Nav::Configurations, parts))
}

async fn files(
    registry: &Registry,
    from: &Configuration,
    to: &Configuration,
) -> Result<Vec<File>, String> {
    if from.id() == to.id() {
        return Ok(Vec::new());
    }
    let permit = timeout(PATIENCE, Arc::clone(&COMPARING).acquire_owned()).await;
    let Ok(permit) = permit else {
        let text = "The registry is busy with another comparison. Reload the page in a moment.";
        return Err(text.into());
    };
    let changed = registry.changed_files(from, to, permit).await;
    let changed = changed.map_err(|err| format!("The files cannot be compared: {err}"))?;
    Ok(changed.into_iter().map(|file| (escape(&file.path.to_string()), file.how)).collect())
}

fn head(difference: &Difference<'_>, title: &str) -> Markup {
    let Difference { name, from, to, states, .. } = difference;
    let here = configuration_address(name.as_str());
    let options = |chosen: u64| {
        html! {
            @for number in states {
                option value=(number) selected[*number == chosen] { (number) }
            }
        }
    };
    html! {
        div class="title" {
            nav class="crumbs" aria-label="Path" {
                a href="/configurations" { "Configurations" } " / " a href=(here) { (name) }
            }
            h1 { (title) }
            p { (counts(difference)) }
            div class="actions" {
                form class="filter" method="get" action={ (here) "/diff" } {
                    label { "From " select name="from" { (options(*from)) } }
                    label { "to " select name="to" { (options(*to)) } }
                    button { "Compare" }
                }
            }
        }
    }
}

fn counts(Difference { layers, files, .. }: &Difference<'_>) -> String {
    let differ = |number: usize, noun: &str| {
        let verb = if number == 1 { "differs" } else { "differ" };
        format!("{} {verb}", count(number as u64, noun))
    };
    let text = differ(layers.len(), "layer");
    files.as_ref().map_or(text.clone(), |files| format!("{text}, {}", differ(files.len(), "file")))
}

fn layer_table(difference: &Difference<'_>) -> Markup {
    let Difference { from, to, layers, reordered, sizes, .. } = difference;
    if layers.is_empty() {
        let text = if *reordered {
            "The layers are in a different order."
        } else {
            "All layers are equal."
        };
        let body = html! { div class="card pad" { p { (text) } } };
        return section("layers", "Layers", &nothing(), &body).html;
    }
    let head = html! {
        th scope="col" { "Layer" }
        th scope="col" { "State " (from) }
        th scope="col" { "State " (to) }
        th scope="col" class="num" { "Change of size" }
    };
    let side = |of: &Option<(VersionName, Digest)>| {
        html! {
            @match of {
                Some((version, _)) => { (version) }
                None => { span class="dim" { "none" } }
            }
        }
    };
    let rows = html! {
        @for layer in layers {
            tr {
                th scope="row" {
                    a href=(component_address(layer.component.as_str())) { (layer.component) }
                }
                td { (side(&layer.from)) }
                td { (side(&layer.to)) }
                td class="num" { (growth(layer, sizes)) }
            }
        }
    };
    let below = html! { @if *reordered { span { "The common layers are in a different order." } } };
    section("layers", "Layers", &nothing(), &table("layers", &head, &rows, &below)).html
}

/// By how many bytes the layer's file has grown or shrunk. The text is empty if the registry does
/// not know the length of one of the two files.
fn growth(layer: &LayerChange, sizes: &HashMap<Digest, u64>) -> String {
    let bytes = |side: &Option<(VersionName, Digest)>| match side {
        Some((_, digest)) => sizes.get(digest).copied(),
        None => Some(0),
    };
    match (bytes(&layer.from), bytes(&layer.to)) {
        (Some(from), Some(to)) if to < from => format!("−{}", size(from - to)),
        (Some(from), Some(to)) => format!("+{}", size(to - from)),
        _ => String::new(),
    }
}

fn file_table(difference: &Difference<'_>) -> Markup {
    let text = match &difference.files {
        Err(why) => why.as_str(),
        Ok(files) if files.is_empty() => "All files are equal.",
        Ok(files) => return list_of(files),
    };
    let body = html! { div class="card pad" { p { (text) } } };
    section("files", "Files", &nothing(), &body).html
}

fn list_of(files: &[File]) -> Markup {
    let rows = html! {
        @for (path, how) in files.iter().take(FILES) {
            @let (class, how) = match how {
                How::Added => (Some("add"), "added"),
                How::Removed => (Some("del"), "removed"),
                How::Changed => (None, "changed"),
                How::Metadata => (None, "metadata"),
            };
            tr class=[class] {
                th scope="row" { (how) }
                td class="why" { code { (path) } }
            }
        }
    };
    let more = files.len().saturating_sub(FILES) as u64;
    let body = html! {
        div class="card" {
            div class="scroll" tabindex="0" role="group" aria-labelledby="files-h" {
                table class="diff" {
                    thead { tr { th scope="col" { "How" } th scope="col" { "Path" } } }
                    tbody { (rows) }
                }
            }
            @if more > 0 {
                div class="pages" {
                    span { (count(more, "more file")) ": the command diff -files shows all" }
                }
            }
        }
    };
    section("files", "Files", &nothing(), &body).html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(files: Result<Vec<File>, String>, name: &ConfigurationName) -> Difference<'_> {
        let version = |text: &str| (text.parse().unwrap(), Digest::of(text.as_bytes()));
        let (from, to) = (version("v92"), version("<v93>"));
        let sizes = HashMap::from([(from.1, 4096), (to.1, 1024)]);
        let component = "code".parse().unwrap();
        let layers = vec![LayerChange { component, from: Some(from), to: Some(to) }];
        let states = vec![15, 14, 13];
        Difference { name, from: 14, to: 15, layers, reordered: false, files, sizes, states }
    }

    #[test]
    fn layers_and_files_that_differ_are_listed() {
        let name = "<script>".parse().unwrap();
        let files =
            vec![("a/<script>alert(1)<".to_owned(), How::Added), ("b".to_owned(), How::Removed)];
        let one = difference(Ok(files), &name);
        let html = [head(&one, "title"), layer_table(&one), file_table(&one)]
            .map(maud::PreEscaped::into_string)
            .concat();
        for wanted in [
            "1 layer differs, 2 files differ",
            "<option value=\"14\" selected>14</option>",
            "&lt;v93&gt;",
            "−3 KiB",
            "<tr class=\"add\"><th scope=\"row\">added</th>",
            "a/&lt;script&gt;alert(1)",
            "/configurations/%3Cscript%3E/diff",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<script"), "{html}");
    }

    #[test]
    fn long_lists_of_files_are_cut() {
        let name = "web".parse().unwrap();
        let files = (0..FILES + 7).map(|number| (format!("f{number}"), How::Changed));
        let html = file_table(&difference(Ok(files.collect()), &name)).into_string();
        assert_eq!(html.matches("<code>").count(), FILES);
        assert!(html.contains("7 more files"), "{html}");
    }

    #[test]
    fn page_says_why_files_are_not_compared() {
        let name = "web".parse().unwrap();
        let one = difference(Err("because <b>".into()), &name);
        assert!(file_table(&one).into_string().contains("because &lt;b&gt;"));
        assert_eq!(counts(&one), "1 layer differs");
    }
}
