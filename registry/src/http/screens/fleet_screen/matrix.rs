//! Renders the table of configurations: their states, and the counts of their hosts by group.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::catalog::ConfigurationHead;
use crate::http::screens::phrases::{person, rollout_pill, verb_of};
use crate::http::screens::widgets::{
    self, address, ago, bar, configuration_address, nothing, rollout_address,
};
use crate::verbs::fleet_document::{ConfigurationStatus, GroupStatus};

/// At most this many groups have a column. The table shows the groups with the most hosts.
const GROUPS: usize = 4;

/// Renders the table. The table has a row for each configuration in `heads`.
pub(super) fn table(all: &[ConfigurationStatus], heads: &[ConfigurationHead]) -> Markup {
    let groups = columns(all);
    let head = html! {
        th scope="col" { "Configuration" }
        th scope="col" { "State" }
        th scope="col" class="hosts" { "Hosts" }
        @for group in &groups {
            th scope="col" class="cell" {
                @if group.is_empty() { "no group" } @else {
                    a href=(address("/hosts", &[("group", group)])) { (group) }
                }
            }
        }
        th scope="col" class="wide" { "Last change" }
    };
    let heads: BTreeMap<&str, &ConfigurationHead> =
        heads.iter().map(|head| (&*head.name, head)).collect();
    let rows = html! {
        @for status in all {
            @if let Some(head) = heads.get(&*status.configuration) {
                (row(status, head, &groups))
            }
        }
    };
    let more = all.len() > heads.len();
    let below = html! {
        @if more { a href="/configurations" { "all " (all.len()) " configurations" } }
    };
    widgets::table("configurations", &head, &rows, &below)
}

/// The groups that have a column, sorted by name. The column of the hosts without a group comes
/// last. If no host has a group, there is no column.
fn columns(all: &[ConfigurationStatus]) -> Vec<&str> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for (group, counts) in all.iter().flat_map(|one| &one.groups) {
        *sizes.entry(group).or_default() += counts.hosts;
    }
    if sizes.keys().all(|group| group.is_empty()) {
        return Vec::new();
    }
    let mut groups: Vec<(&str, u64)> = sizes.into_iter().collect();
    groups.sort_by_key(|(name, hosts)| (std::cmp::Reverse(*hosts), *name));
    groups.truncate(GROUPS);
    let mut names: Vec<&str> = groups.into_iter().map(|(name, _)| name).collect();
    names.sort_by_key(|name| (name.is_empty(), *name));
    names
}

fn row(status: &ConfigurationStatus, head: &ConfigurationHead, groups: &[&str]) -> Markup {
    let name = &*status.configuration;
    html! {
        tr {
            th scope="row" {
                a href=(configuration_address(name)) { (name) }
                small class="layers" { (layers(head)) }
            }
            td class="keep" { (state(status)) }
            td class="hosts" { (hosts(status)) }
            @for group in groups {
                td class="cell" { (cell(name, group, status.groups.get(*group))) }
            }
            td class="wide keep" {
                (person(&head.who)) " · " (verb_of(&head.command))
                small { (ago(head.modified)) }
            }
        }
    }
}

/// The first layers of a state as a text.
fn layers(head: &ConfigurationHead) -> String {
    let first = head.layers.iter().map(|(component, version)| format!("{component} {version}"));
    let mut parts: Vec<String> = first.collect();
    let more = head.all_layers.saturating_sub(parts.len() as u64);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    parts.join(" · ")
}

/// The current state. During a rollout, the target and the base of the rollout.
fn state(status: &ConfigurationStatus) -> Markup {
    let Some(rollout) = &status.rollout else { return html! { (status.state) } };
    html! {
        (rollout.target) " "
        a href=(rollout_address(&status.configuration, rollout.number)) {
            (rollout_pill(rollout.status))
        }
        small { (status.state) " is the base" }
    }
}

fn hosts(status: &ConfigurationStatus) -> Markup {
    let ConfigurationStatus { hosts, done, behind, failed, absent, held, unknown, .. } = *status;
    let working = behind - failed - absent;
    let all = hosts + unknown;
    let words: Vec<String> = [
        (done, "done"),
        (working, "working"),
        (failed, "failed"),
        (absent, "absent"),
        (held, "held"),
        (unknown, "unknown"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    html! {
        a href=(address("/hosts", &[("name", &status.configuration)])) {
            (all) (bar("", &[("good", done), ("work", working), ("bad", failed)], all))
        }
        small { @if words.is_empty() { "no host yet" } @else { (words.join(", ")) } }
    }
}

fn cell(name: &str, group: &str, counts: Option<&GroupStatus>) -> Markup {
    let Some(counts) = counts else { return html! { span class="dim" { "–" } } };
    let GroupStatus { hosts, done, behind, failed, absent, .. } = *counts;
    let parts = [("good", done), ("work", behind - failed - absent), ("bad", failed)];
    let text = html! { (done) " of " (hosts) (bar("", &parts, hosts)) };
    html! {
        @if group.is_empty() { (text) } @else {
            a href=(address("/hosts", &[("name", name), ("group", group)])) { (text) }
        }
        @if failed > 0 { small class="bad" { (failed) " failed" } } @else { (nothing()) }
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::fleet::CurrentState;
    use crate::fleet::convergence::Part;
    use crate::verbs::fleet_counts::Counts;
    use crate::verbs::fleet_counts::tests::seen;

    fn web(groups: &[&str]) -> ConfigurationStatus {
        let mut all = vec![seen("x", groups[0], Part::Failed), seen("y", groups[0], Part::Absent)];
        all.extend(groups.iter().map(|group| seen("h", group, Part::Done)));
        let mut counts = Counts::default();
        for seen in &all {
            counts.add(seen);
        }
        let current = CurrentState { number: 15, revision: 7, id: Digest::of(b"new") };
        counts.take("web", &current, None)
    }

    fn head() -> ConfigurationHead {
        ConfigurationHead {
            name: "web".to_owned(),
            number: 15,
            modified: Timestamp::UNIX_EPOCH,
            who: "SHA256:abc <b>anna</b>".to_owned(),
            command: "bumpconf -name=web".to_owned(),
            layers: vec![("code".to_owned(), "v93".to_owned())],
            all_layers: 3,
        }
    }

    #[test]
    fn row_has_the_counts_of_the_configuration_and_of_its_groups() {
        let html = table(&[web(&["canary", ""])], &[head()]).into_string();
        for text in [
            "<a href=\"/configurations/web\">web</a><small class=\"layers\">code v93 · 2 more",
            "<a href=\"/hosts?name=web\">4<svg",
            "2 done, 1 failed, 1 absent",
            "<a href=\"/hosts?name=web&amp;group=canary\">1 of 3<svg",
            "1 of 1<svg",
            "<small class=\"bad\">1 failed</small>",
            "&lt;b&gt;anna&lt;/b&gt; · bumpconf<small>",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
    }

    #[test]
    fn only_the_largest_groups_have_a_column() {
        assert_eq!(columns(&[web(&["", ""])]), Vec::<&str>::new());
        let both = web(&["b", "", "a", "c", "d", "e"]);
        assert_eq!(columns(std::slice::from_ref(&both)), ["a", "b", "c", ""]);
    }
}
