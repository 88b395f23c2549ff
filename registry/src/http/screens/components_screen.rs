//! Renders `/components`, which lists all components.

use deploy_store::ComponentName;
use maud::{Markup, html};

use super::layout::{Nav, Page, Part, Section};
use super::widgets::{
    address, ago, bar, component_address, configuration_address, count, nothing, section, size,
    table,
};
use crate::catalog::ComponentSummary;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// A page shows at most this many components.
const PAGE: usize = 200;

/// Renders the screen.
pub async fn page(registry: &Registry, after: Option<&ComponentName>) -> Result<Page, Problem> {
    let mut components = registry.catalog.component_page(after, PAGE as u64 + 1).await?;
    let has_more = components.len() > PAGE;
    components.truncate(PAGE);
    let counts = registry.catalog.counts().await?;
    let title = html! {
        div class="title" {
            h1 { "Components" }
            p { "A component has versions, each with a file. Configurations consist of versions." }
        }
        form class="filter" method="get" action="/components" {
            label {
                "Name "
                input type="search" name="after" data-filter="components" autocomplete="off";
            }
            button { "Show from here" }
        }
    };
    let total =
        format!("{}, {}", count(counts.components, "component"), count(counts.versions, "version"));
    let list = list(&components, &total, after.is_some(), has_more);
    Ok(Page::new("Components", Nav::Components, vec![Part::Fixed(title), Part::One(list)]))
}

fn list(components: &[ComponentSummary], total: &str, is_later: bool, has_more: bool) -> Section {
    if components.is_empty() && !is_later {
        return section("components", "All components", &nothing(), &first_steps());
    }
    let heading = if is_later { "More components" } else { "All components" };
    let head = html! {
        th scope="col" { "Component" }
        th scope="col" class="num" { "Versions" }
        th scope="col" class="num" { "Size" }
        th scope="col" class="hosts" { "Share" }
        th scope="col" { "Newest" }
        th scope="col" { "Used by" }
    };
    let most = components.iter().map(|one| one.total.bytes).max().unwrap_or(0);
    let rows = html! { @for one in components { (row(one, most)) } };
    let below = html! {
        @if let Some(last) = components.last().filter(|_| has_more) {
            span { (count(components.len() as u64, "component")) " on this page" }
            a href=(address("/components", &[("after", last.name.as_str())])) { "more" }
        } @else if is_later {
            span { "These are the last components." }
            a href="/components" { "first" }
        }
    };
    let beside = html! { p { (total) } };
    section("components", heading, &beside, &table("components", &head, &rows, &below))
}

fn first_steps() -> Markup {
    html! {
        div class="card empty" {
            p { "There is no component yet. Upload an archive as the first version of a component:" }
            code class="shell" { "deployctl addver -name code -version v1 -dir build" }
        }
    }
}

fn row(one: &ComponentSummary, most: u64) -> Markup {
    html! {
        tr {
            th scope="row" { a href=(component_address(one.name.as_str())) { (one.name) } }
            td class="num" { (one.total.versions) }
            td class="num" { (size(one.total.bytes)) }
            td class="hosts" { (bar("", &[("work", one.total.bytes)], most)) }
            td {
                @if let Some((version, created)) = &one.newest {
                    (version) small { (ago(*created)) }
                } @else { span class="dim" { "no version" } }
            }
            td class="why" {
                @if let Some(user) = &one.user {
                    a href=(configuration_address(user.as_str())) { (user) }
                    @if one.users > 1 { " and " (one.users - 1) " more" }
                } @else { span class="dim" { "nothing" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::VersionsTotal;

    fn component(name: &str, bytes: u64, users: u64) -> ComponentSummary {
        ComponentSummary {
            name: name.parse().unwrap(),
            total: VersionsTotal { versions: 3, bytes },
            newest: Some(("v3".parse().unwrap(), Timestamp::UNIX_EPOCH)),
            user: (users > 0).then(|| "web".parse().unwrap()),
            users,
        }
    }

    #[test]
    fn components_show_their_share_and_their_users() {
        let all = [component("<script>", 4096, 0), component("code", 1024, 3)];
        let html = list(&all, "2 components, 6 versions", false, true).html.into_string();
        for wanted in [
            "4 KiB",
            "width=\"25.00\"",
            "nothing",
            "web</a> and 2 more",
            "after=code",
            "/components/%3Cscript%3E",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<script>"), "{html}");
    }

    #[test]
    fn empty_list_shows_the_first_command() {
        let html = list(&[], "", false, false).html.into_string();
        assert!(html.contains("deployctl addver"), "{html}");
    }
}
