//! Lists the hosts of a configuration by group, and the states that these hosts run.

use std::collections::BTreeMap;

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use crate::http::screens::configurations_screen::is_working;
use crate::http::screens::layout::Section;
use crate::http::screens::widgets::{address, bar, count, nothing, section as framed, table};
use crate::verbs::fleet_document::HostStatus;

/// The section lists at most this many groups.
const GROUPS: usize = 50;
/// The section names at most this many states of a group.
const STATES: usize = 4;

/// The hosts of a group.
#[derive(Debug, Default)]
pub struct Group {
    /// The name of the group; empty for hosts without a group.
    pub name: String,
    hosts: u64,
    done: u64,
    working: u64,
    failed: u64,
    /// The number of hosts for each state. The key is the number of the state, or 0 for an unknown
    /// state.
    runs: BTreeMap<u64, u64>,
}

/// Groups these hosts. The groups are sorted by name.
pub fn of(hosts: &[HostStatus]) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for host in hosts {
        let group = groups.entry(&host.group).or_default();
        group.hosts += 1;
        if host.done {
            group.done += 1;
        } else if is_working(host.phase) {
            group.working += 1;
        } else if matches!(host.phase, "failed" | "rolled_back") {
            group.failed += 1;
        }
        *group.runs.entry(host.runs.unwrap_or(0)).or_default() += 1;
    }
    groups.into_iter().map(|(name, group)| Group { name: name.to_owned(), ..group }).collect()
}

/// Renders the section.
pub fn section(name: &ConfigurationName, groups: &[Group]) -> Section {
    let hosts = groups.iter().map(|group| group.hosts).sum::<u64>();
    let beside = html! {
        a href=(address("/hosts", &[("name", name.as_str())])) { (count(hosts, "host")) }
    };
    if groups.is_empty() {
        return framed("running", "Who runs what", &nothing(), &first_host(name));
    }
    let head = html! {
        th scope="col" { "Group" }
        th scope="col" class="num" { "Hosts" }
        th scope="col" class="hosts" { "Share" }
        th scope="col" { "Counts" }
    };
    let rows = html! { @for group in groups.iter().take(GROUPS) { (row(name, group)) } };
    let more = groups.len().saturating_sub(GROUPS) as u64;
    let below = html! { @if more > 0 { span { (count(more, "more group")) } } };
    framed("running", "Who runs what", &beside, &table("running", &head, &rows, &below))
}

fn first_host(name: &ConfigurationName) -> Markup {
    html! {
        div class="card empty" {
            p { "No host has reported yet. Start an agent on each server:" }
            code class="shell" {
                "deploy-agent -addr REGISTRY:PORT -fp FINGERPRINT -key agent.key -name "
                (deploy_wire::command::quote(name.as_str()))
            }
        }
    }
}

fn row(name: &ConfigurationName, group: &Group) -> Markup {
    let parts = [("good", group.done), ("work", group.working), ("bad", group.failed)];
    html! {
        tr {
            th scope="row" {
                @if group.name.is_empty() { span class="dim" { "no group" } }
                @else {
                    @let fields = [("name", name.as_str()), ("group", group.name.as_str())];
                    a href=(address("/hosts", &fields)) { (group.name) }
                }
            }
            td class="num" { (group.hosts) }
            td class="hosts" { (bar("big", &parts, group.hosts)) }
            td class="dim" { (counts(group)) }
        }
    }
}

/// The numbers of hosts that are done, are working or have failed, and the number of hosts on each
/// state.
fn counts(group: &Group) -> String {
    let mut texts = vec![format!("{} done", group.done)];
    if group.working > 0 {
        texts.push(format!("{} working", group.working));
    }
    if group.failed > 0 {
        texts.push(format!("{} failed", group.failed));
    }
    // The newest states come first.
    for (state, hosts) in group.runs.iter().rev().filter(|(state, _)| **state > 0).take(STATES) {
        texts.push(format!("{hosts} on {state}"));
    }
    if let Some(hosts) = group.runs.get(&0) {
        texts.push(format!("{hosts} on an unknown state"));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn host(group: &str, phase: &'static str, runs: Option<u64>, done: bool) -> HostStatus {
        HostStatus {
            host: "h".into(),
            configuration: "web".into(),
            group: group.into(),
            phase,
            runs,
            runs_hash: None,
            wants: None,
            wants_hash: None,
            done,
            since: None,
            connected: true,
            last_seen: Timestamp::UNIX_EPOCH,
            duplicate: false,
            held: None,
            wave: None,
            reason: None,
            message: String::new(),
            version: String::new(),
        }
    }

    #[test]
    fn hosts_are_counted_by_group_and_state() {
        let groups = of(&[
            host("<g>", "healthy", Some(15), true),
            host("<g>", "script", Some(14), false),
            host("<g>", "rolled_back", Some(14), false),
            host("", "unknown", None, false),
        ]);
        assert_eq!(groups.len(), 2);
        assert_eq!(counts(&groups[0]), "0 done, 1 on an unknown state");
        assert_eq!(counts(&groups[1]), "1 done, 1 working, 1 failed, 1 on 15, 2 on 14");
        let html = section(&"web".parse().unwrap(), &groups).html.into_string();
        assert!(html.contains(">4 hosts<") && html.contains("no group"), "{html}");
        assert!(html.contains("group=%3Cg%3E") && !html.contains("<g>"), "{html}");
    }

    #[test]
    fn without_hosts_the_section_says_how_to_start_an_agent() {
        let html = section(&"web".parse().unwrap(), &[]).html.into_string();
        assert!(html.contains("deploy-agent -addr") && html.contains("-name web"), "{html}");
    }
}
