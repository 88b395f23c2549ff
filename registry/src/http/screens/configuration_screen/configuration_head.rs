//! Renders the head of a configuration: its counts, its actions, and what needs attention.

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use crate::catalog::fleet::Freeze;
use crate::http::screens::layout::Section;
use crate::http::screens::phrases::{host_counts, person, rollout_line};
use crate::http::screens::widgets::{address, configuration_address, confirm, count, icon, until};
use crate::verbs::fleet_document::ConfigurationStatus;

/// What the head shows.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The configuration.
    pub name: &'a ConfigurationName,
    /// The counts of the configuration's hosts.
    pub status: &'a ConfigurationStatus,
    /// The freeze that is in force.
    pub frozen: Option<&'a Freeze>,
    /// The state that a rollback without a number would restore. `None` if there is no such state,
    /// or if the registry would refuse a rollback.
    pub back_to: Option<u64>,
    /// Whether the viewer may change things.
    pub may_act: bool,
}

/// Renders the section.
pub fn section(head: &Head<'_>) -> Section {
    let Head { name, status, may_act, .. } = head;
    let all = count(status.hosts + status.unknown, "host");
    let counts = host_counts(status);
    let needs = needs(head);
    let html = html! {
        section id="configuration" aria-labelledby="configuration-h" class="stack" {
            div class="title" {
                nav class="crumbs" aria-label="Path" {
                    a href="/configurations" { "Configurations" }
                }
                h1 id="configuration-h" { (name) }
                p {
                    "state " (status.state) " · " (all)
                    @if !counts.is_empty() { ": " (counts) }
                }
                @if *may_act { (actions(head)) }
            }
            @if !needs.0.is_empty() { ul class="needs" { (needs) } }
        }
    };
    Section { id: "configuration", html }
}

fn actions(Head { name, status, frozen, back_to, .. }: &Head<'_>) -> Markup {
    let name = name.as_str();
    let hosts = count(status.hosts + status.unknown, "host");
    html! {
        div class="actions" {
            @if frozen.is_none() {
                a class="button" href={ (configuration_address(name)) "/change" } { "Change versions…" }
            }
            @if let Some(to) = back_to {
                @let link = confirm("rollback", &[("name", name), ("to", &to.to_string())]);
                a class="button danger" href=(link) { "Roll back: " (hosts) " to state " (to) "…" }
            }
            @if status.failed > 0 {
                @let link = confirm("retry", &[("failed", "true"), ("name", name)]);
                a class="button" href=(link) { "Retry failed hosts…" }
            }
            @if frozen.is_some() {
                @let link = confirm("freeze", &[("name", name), ("off", "true")]);
                a class="button" href=(link) { "End the freeze…" }
            } @else {
                a class="button" href=(confirm("freeze", &[("name", name)])) { "Freeze…" }
            }
        }
    }
}

fn needs(Head { name, status, frozen, .. }: &Head<'_>) -> Markup {
    let name = name.as_str();
    let hosts = |fields: &[(&str, &str)]| {
        let fields: Vec<_> = [("name", name)].iter().chain(fields).copied().collect();
        address("/hosts", &fields)
    };
    html! {
        @if let Some(rollout) = &status.rollout {
            @let (class, shape) = match rollout.status {
                "halted" => ("bad", "failed"),
                "paused" => ("warn", "warn"),
                _ => ("work", "working"),
            };
            li class={ "need " (class) } { (icon(shape)) div { (rollout_line(name, rollout)) } }
        }
        @if status.failed > 0 {
            li class="need bad" {
                (icon("failed"))
                div { b { (count(status.failed, "host")) " failed" } }
                a href=(hosts(&[("behind", "1")])) { "show the hosts that are behind" }
            }
        }
        @if let Some(freeze) = frozen {
            li class="need warn" {
                (icon("warn"))
                div {
                    b { "Frozen" } " " (until(freeze.until)) ": " (freeze.message)
                    small { "by " (person(&freeze.who)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    fn html(may_act: bool, back_to: Option<u64>, frozen: Option<&Freeze>) -> String {
        let status = ConfigurationStatus {
            configuration: "<script>".into(),
            state: 3,
            hash: String::new(),
            rollout: None,
            hosts: 4,
            done: 3,
            behind: 1,
            failed: 1,
            absent: 0,
            held: 0,
            unknown: 0,
            phases: BTreeMap::new(),
            groups: std::collections::BTreeMap::new(),
        };
        let name = "<script>".parse().unwrap();
        let head = Head { name: &name, status: &status, frozen, back_to, may_act };
        section(&head).html.into_string()
    }

    #[test]
    fn only_a_viewer_who_may_act_gets_links_to_changes() {
        let text = html(false, Some(2), None);
        assert!(!text.contains("/confirm") && !text.contains("/change"), "{text}");
        let text = html(true, Some(2), None);
        for wanted in [
            "state 3 · 4 hosts: 3 done, 1 failed",
            "verb=rollback&amp;name=%3Cscript%3E&amp;to=2",
            "Roll back: 4 hosts to state 2…",
            "verb=freeze&amp;name=%3Cscript%3E\"",
            "verb=retry&amp;failed=true&amp;name=",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!text.contains("<script>"), "{text}");
    }

    #[test]
    fn without_an_earlier_state_there_is_no_rollback() {
        assert!(!html(true, None, None).contains("rollback"));
    }

    #[test]
    fn freeze_is_shown_and_can_be_ended() {
        let freeze = Freeze {
            message: "<b>".into(),
            who: "SHA256:x anna".into(),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
        };
        let text = html(true, None, Some(&freeze));
        assert!(text.contains("&lt;b&gt;") && text.contains("by anna"), "{text}");
        assert!(text.contains("off=true"), "{text}");
    }
}
