//! Makes short texts that several screens share.

use deploy_store::escape;
use maud::{Markup, html};

use super::widgets::{count, pill, rollout_address};
use crate::verbs::fleet_document::{ConfigurationStatus, RolloutBrief};
use crate::verbs::state_diff::LayerChange;

/// A sentence names at most this many changed layers.
const NAMED: usize = 3;

/// The name of a person: the comment of the key, or the fingerprint if the key has no comment.
pub fn person(who: &str) -> String {
    match who.split_once(' ') {
        Some((_, comment)) if !comment.is_empty() => escape(comment),
        _ => escape(who),
    }
}

/// The verb of a command line, with its action.
pub fn verb_of(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default();
    let action = words.find_map(|word| word.strip_prefix("-action="));
    let action = action.map(|action| format!(" {}", action.trim_matches('"')));
    escape(&(verb.to_owned() + &action.unwrap_or_default()))
}

/// The counts of a configuration's hosts, such as `37 done, 2 failed`. The text omits counts of 0.
pub fn host_counts(one: &ConfigurationStatus) -> String {
    let counts = [
        (one.done, "done"),
        (one.failed, "failed"),
        (one.absent, "absent"),
        (one.held, "held"),
        (one.unknown, "only polling"),
    ];
    let texts = counts.iter().filter(|(number, _)| *number > 0);
    texts.map(|(number, what)| format!("{number} {what}")).collect::<Vec<_>>().join(", ")
}

/// The status of a rollout as one or two words in a coloured frame.
pub fn rollout_pill(status: &str) -> Markup {
    match status {
        "running" => pill("work", "rolling out"),
        "halted" => pill("bad", "halted"),
        "paused" => pill("warn", "paused"),
        "succeeded" => pill("good", "succeeded"),
        other => pill("off", other),
    }
}

/// An active rollout in one sentence, with a link.
pub fn rollout_line(name: &str, brief: &RolloutBrief) -> Markup {
    let RolloutBrief { number, target, wave, waves, .. } = brief;
    html! {
        a href=(rollout_address(name, *number)) { "Rollout " (number) }
        " to state " (target) ", wave " (wave) " of " (waves) " " (rollout_pill(brief.status))
    }
}

/// The layers that differ, in the form `code: v1 → v2`.
pub fn layer_changes(changes: &[LayerChange], reordered: bool) -> String {
    let mut texts: Vec<String> = changes.iter().take(NAMED).map(layer_change).collect();
    if changes.len() > NAMED {
        let more = (changes.len() - NAMED) as u64;
        texts.push(format!("and {}", count(more, "more layer")));
    }
    if reordered {
        texts.push("layers in a different order".to_owned());
    }
    if texts.is_empty() { "no layer changed".to_owned() } else { texts.join(", ") }
}

fn layer_change(LayerChange { component, from, to }: &LayerChange) -> String {
    match (from, to) {
        (Some((from, _)), Some((to, _))) if from == to => {
            format!("{component}: {to}, uploaded again")
        }
        (Some((from, _)), Some((to, _))) => format!("{component}: {from} → {to}"),
        (None, Some((to, _))) => format!("{component}: added, {to}"),
        (Some((from, _)), None) => format!("{component}: removed, {from}"),
        (None, None) => component.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use deploy_store::Digest;

    use super::*;

    #[test]
    fn person_is_the_comment_of_the_key() {
        assert_eq!(person("SHA256:abc anna@laptop"), "anna@laptop");
        assert_eq!(person("SHA256:abc"), "SHA256:abc");
    }

    #[test]
    fn verb_includes_its_action() {
        assert_eq!(verb_of("bumpconf -name=\"a\" -component=\"b\""), "bumpconf");
        assert_eq!(verb_of("rollout -action=\"start\" -name=\"a\""), "rollout start");
        assert_eq!(verb_of(""), "");
    }

    #[test]
    fn counts_leave_out_zeros() {
        let one = ConfigurationStatus {
            configuration: "a".into(),
            state: 1,
            hash: String::new(),
            rollout: None,
            hosts: 5,
            done: 3,
            behind: 2,
            failed: 2,
            absent: 0,
            held: 0,
            unknown: 1,
            phases: BTreeMap::new(),
            groups: std::collections::BTreeMap::new(),
        };
        assert_eq!(host_counts(&one), "3 done, 2 failed, 1 only polling");
    }

    #[test]
    fn changed_layers_are_named_up_to_a_limit() {
        let version = |text: &str| (text.parse().unwrap(), Digest::of(text.as_bytes()));
        let change = |component: &str, from: Option<&str>, to: Option<&str>| LayerChange {
            component: component.parse().unwrap(),
            from: from.map(version),
            to: to.map(version),
        };
        let (a, b) = (change("a", Some("1"), Some("2")), change("b", None, Some("7")));
        assert_eq!(layer_changes(&[a.clone(), b.clone()], false), "a: 1 → 2, b: added, 7");
        let c = change("c", Some("1"), None);
        let all = [a, b, c.clone(), c.clone(), c];
        assert!(
            layer_changes(&all, true)
                .ends_with("c: removed, 1, and 2 more layers, layers in a different order")
        );
        assert_eq!(layer_changes(&[], false), "no layer changed");
    }
}
