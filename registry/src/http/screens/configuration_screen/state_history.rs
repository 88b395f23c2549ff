//! Renders the history of a configuration: who made each state and when, and what changed.

use deploy_store::ConfigurationName;
use maud::{Markup, html};

use crate::catalog::{ListedState, StatePage};
use crate::http::screens::layout::Section;
use crate::http::screens::phrases::{layer_changes, person, verb_of};
use crate::http::screens::widgets::{
    address, ago, configuration_address, confirm, count, pill, rollout_address, section as framed,
    table,
};
use crate::verbs::state_diff::layers;

/// A page shows at most this many states.
pub const PAGE: u64 = 20;

/// Renders the section. With `may_roll_back`, the section links to the confirmations of rollbacks.
pub fn section(
    name: &ConfigurationName,
    page: &StatePage,
    before: Option<u64>,
    may_roll_back: bool,
) -> Section {
    let head = html! {
        th scope="col" class="num" { "State" }
        th scope="col" { "When" }
        th scope="col" { "Who" }
        th scope="col" { "Change" }
        th scope="col" { "Now" }
        th scope="col" { "Difference" }
        @if may_roll_back { th scope="col" { "Rollback" } }
    };
    let rows = html! {
        @for listed in &page.states { (row(name, page, listed, may_roll_back)) }
    };
    let here = configuration_address(name.as_str());
    let numbers = page.states.first().zip(page.states.last());
    let below = html! {
        @if page.has_older || before.is_some() {
            @if let Some((first, last)) = numbers {
                span { "states " (first.state.number) " to " (last.state.number) }
                @if before.is_some() { a href={ (here) "#history" } { "newest" } }
                @if page.has_older {
                    @let fields = [("before", &*last.state.number.to_string())];
                    a href={ (address(&here, &fields)) "#history" } { "older" }
                }
            } @else {
                span { "There are no older states." }
                a href={ (here) "#history" } { "newest" }
            }
        }
    };
    framed("history", "History", &html! {}, &table("history", &head, &rows, &below))
}

fn row(
    name: &ConfigurationName,
    page: &StatePage,
    listed: &ListedState,
    may_roll_back: bool,
) -> Markup {
    let state = &listed.state;
    let number = state.number.to_string();
    let here = configuration_address(name.as_str());
    html! {
        tr {
            th scope="row" class="num" { (number) }
            td class="keep" { (ago(state.modified)) }
            td { (person(&state.who)) }
            td class="why" {
                (change(page, listed))
                @if let Some(rollout) = &listed.rollout {
                    small {
                        a href=(rollout_address(name.as_str(), rollout.number)) {
                            "rollout " (rollout.number)
                        }
                        ", " (rollout.status)
                    }
                }
            }
            td { (now(listed)) }
            td class="keep" {
                @if let Some(before) = listed.before {
                    @let fields = [("from", &*before.to_string()), ("to", &*number)];
                    a href=(address(&(here + "/diff"), &fields)) { "diff to " (before) }
                }
            }
            @if may_roll_back { td class="keep" { (rollback(name, listed)) } }
        }
    }
}

/// The current role of the state: a short text in a frame.
fn now(listed: &ListedState) -> Markup {
    let is_rolling = listed.rollout.as_ref().is_some_and(|rollout| !rollout.has_ended);
    html! {
        @if listed.state.current { (pill("good", "current")) }
        @else if listed.state.proposed && is_rolling { (pill("work", "rolling out")) }
        @else if listed.state.proposed { (pill("off", "never current")) }
        @else if listed.state.lost { (pill("off", "imported without files")) }
    }
}

/// For a state that was current before: a link to the page that confirms a rollback to this state,
/// or a note that the registry cannot restore the state.
fn rollback(name: &ConfigurationName, listed: &ListedState) -> Markup {
    let state = &listed.state;
    let number = state.number.to_string();
    html! {
        @if !state.current && !state.proposed {
            @if listed.is_restorable {
                a href=(confirm("rollback", &[("name", name.as_str()), ("to", &number)])) {
                    "Roll back to " (number) "…"
                }
            } @else { span class="dim" { "versions are deleted" } }
        }
    }
}

/// The verb that made the state, and the layers that the verb changed.
fn change(page: &StatePage, listed: &ListedState) -> String {
    let (state, contents) = (&listed.state, &page.contents);
    let verb = match state.back_to {
        Some(to) => format!("rollback to {to},"),
        None => verb_of(&state.command),
    };
    let to = contents.get(&state.number);
    let from = listed.before.and_then(|number| contents.get(&number));
    let what = match (from, to) {
        (Some(from), Some(to)) => {
            let (changes, reordered) = layers(from, to);
            layer_changes(&changes, reordered)
        }
        (None, Some(to)) => count(to.layers().len() as u64, "layer"),
        (_, None) => return verb.trim_end_matches(',').to_owned(),
    };
    format!("{verb} {what}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use deploy_store::{Configuration, Digest, Layer};
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::{State, StateRollout};

    fn configuration(version: &str) -> Configuration {
        let layer = Layer {
            component: "code".parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(version.as_bytes()),
            created: Timestamp::UNIX_EPOCH,
        };
        Configuration::new("web".parse().unwrap(), vec![layer], Timestamp::UNIX_EPOCH).unwrap()
    }

    fn listed(number: u64, before: Option<u64>) -> ListedState {
        let state = State {
            number,
            hash: Digest::of(b""),
            modified: Timestamp::UNIX_EPOCH,
            who: "SHA256:abc <script>alert(1)</script>".into(),
            command: "bumpconf -name=\"web\"".into(),
            current: number == 2,
            lost: false,
            back_to: None,
            proposed: number == 3,
        };
        ListedState { state, before, is_restorable: true, rollout: None }
    }

    fn page() -> StatePage {
        let rollout = StateRollout { number: 7, status: "running".into(), has_ended: false };
        let three = ListedState { rollout: Some(rollout), ..listed(3, Some(2)) };
        let contents = [(1, "v1"), (2, "v2"), (3, "<b>")];
        let contents =
            contents.into_iter().map(|(number, version)| (number, configuration(version)));
        StatePage {
            states: vec![three, listed(2, Some(1)), listed(1, None)],
            contents: contents.collect::<BTreeMap<_, _>>(),
            has_older: true,
        }
    }

    #[test]
    fn states_show_what_they_changed() {
        let html = section(&"web".parse().unwrap(), &page(), None, true).html.into_string();
        for wanted in [
            "bumpconf code: v1 → v2",
            "bumpconf code: v2 → &lt;b&gt;",
            "bumpconf 1 layer",
            "rolling out",
            "/rollouts/web/7",
            "/configurations/web/diff?from=1&amp;to=2",
            "before=1#history",
            "verb=rollback&amp;name=web&amp;to=1",
            "&lt;script&gt;alert(1)",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
        assert!(!html.contains("<script"), "{html}");
        // Neither the current state nor a state that was never current has a link to a rollback.
        assert_eq!(html.matches("verb=rollback").count(), 1, "{html}");
    }

    #[test]
    fn rollback_needs_all_versions_and_a_viewer_who_may_act() {
        let mut page = page();
        page.states[2].is_restorable = false;
        let name = "web".parse().unwrap();
        let html = section(&name, &page, None, true).html.into_string();
        assert!(html.contains("versions are deleted") && !html.contains("verb=rollback"), "{html}");
        let html = section(&name, &page, None, false).html.into_string();
        assert!(!html.contains("Rollback"), "{html}");
    }
}
