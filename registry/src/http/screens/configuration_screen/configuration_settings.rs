//! Renders the settings of a configuration: its policy, its freeze, and the windows of its groups.

use maud::{Markup, html};

use super::running_groups::Group;
use crate::catalog::fleet::Freeze;
use crate::catalog::rollouts::{GroupWindows, NamedPolicy};
use crate::http::screens::layout::Section;
use crate::http::screens::phrases::person;
use crate::http::screens::policy_words::in_words;
use crate::http::screens::widgets::{nothing, section as framed, until};

/// Renders the section.
pub fn section(
    policy: Option<&NamedPolicy>,
    frozen: Option<&Freeze>,
    windows: &[GroupWindows],
    groups: &[Group],
) -> Section {
    let body = html! {
        div class="card pad" {
            dl class="list" {
                dt { "policy" }
                dd { (policy_text(policy)) }
                dt { "frozen" }
                dd {
                    @match frozen {
                        Some(freeze) => {
                            (until(freeze.until)) " by " (person(&freeze.who)) ": " (freeze.message)
                        }
                        None => { "no" }
                    }
                }
                dt { "windows" }
                dd { (windows_text(windows, groups)) }
            }
        }
    };
    framed("settings", "Settings", &nothing(), &body)
}

fn policy_text(policy: Option<&NamedPolicy>) -> Markup {
    html! {
        @match policy {
            Some(one) => { (one.name) ": " (in_words(&one.policy)) }
            None => { "none: a change without waves reaches all hosts together" }
        }
    }
}

/// The windows of the groups that have hosts of the configuration.
fn windows_text(windows: &[GroupWindows], groups: &[Group]) -> Markup {
    let has_hosts = |one: &&GroupWindows| groups.iter().any(|group| group.name == one.group);
    let windows: Vec<&GroupWindows> = windows.iter().filter(has_hosts).collect();
    html! {
        @if windows.is_empty() { "none: hosts may switch at any time" }
        @for one in windows { div { (one.group) ": " (one.windows) } }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn only_windows_of_groups_with_hosts_are_shown() {
        let windows = |group: &str| GroupWindows {
            group: group.into(),
            windows: "Mon-Fri 22:00-06:00 UTC".parse().unwrap(),
            who: String::new(),
            since: Timestamp::UNIX_EPOCH,
        };
        let mut group = Group::default();
        group.name = "a<b".into();
        let all = [windows("a<b"), windows("other")];
        let html = section(None, None, &all, &[group]).html.into_string();
        assert!(html.contains("a&lt;b: ") && html.contains("22:00"), "{html}");
        assert!(!html.contains("other"), "{html}");
        assert!(html.contains("a change without waves reaches all hosts together"), "{html}");
    }
}
