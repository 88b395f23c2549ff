use std::collections::BTreeMap;

use deploy_store::Digest;
use deploy_wire::fleet::{Phase, Step};
use jiff::Timestamp;

use super::running_layers::LayerOnHost;
use super::*;
use crate::catalog::fleet::HostHold;
use crate::verbs::why::Tried;

const HOSTILE: &str = "<script>alert(1)</script>";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn status(phase: &'static str) -> HostStatus {
    HostStatus {
        host: "web-11".to_owned(),
        configuration: "shop".to_owned(),
        group: "production".to_owned(),
        phase,
        runs: Some(14),
        runs_hash: Some(Digest::of(b"14")),
        wants: Some(15),
        wants_hash: Some(Digest::of(b"15")),
        done: false,
        since: Some(at(100)),
        connected: true,
        last_seen: Timestamp::now(),
        duplicate: false,
        held: None,
        wave: Some(2),
        reason: Some("script"),
        message: HOSTILE.to_owned(),
        version: "0.9.0".to_owned(),
    }
}

fn tried(phase: &'static str, steps: &[(Phase, u64)]) -> Tried {
    Tried {
        number: 3,
        wants_hash: Some(Digest::of(b"15")),
        phase,
        reason: Some("script"),
        message: HOSTILE.to_owned(),
        exit_code: Some(7),
        steps: steps.iter().map(|(phase, ms)| Step { phase: *phase, ms: *ms }).collect(),
        began: at(90),
        reported: at(100),
    }
}

fn doc(phase: &'static str, may_act: bool) -> Doc {
    let steps = [(Phase::Fetched, 412), (Phase::Staged, 1588), (Phase::Failed, 8000)];
    let attempts = vec![tried(phase, &steps), tried("healthy", &[(Phase::Healthy, 2000)])];
    let labels = [("group", "production"), ("rack", "b4")];
    let layer = LayerOnHost {
        component: "code".to_owned(),
        runs: Some("v92".to_owned()),
        wants: Some("v93".to_owned()),
        changes: true,
        bytes: Some(1 << 20),
    };
    Doc {
        host: HostRow {
            number: 1,
            name: "web-11".to_owned(),
            key: HOSTILE.to_owned(),
            since: at(50),
            retired: None,
            hold: None,
            labels: BTreeMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        },
        configurations: vec![WhyOne {
            status: status(phase),
            attempts,
            output: format!("{HOSTILE}\nERROR"),
        }],
        running: vec![Running { runs: Some(14), wants: Some(15), layers: vec![layer] }],
        may_act,
    }
}

fn all(doc: &Doc) -> String {
    let sections = [
        host_head::head(doc),
        deploy_course::phases(doc),
        output(doc),
        running_layers::layers(doc),
        deploy_course::before(doc),
        labels(doc),
    ];
    sections.iter().map(|section| section.html.0.as_str()).collect()
}

fn has(html: &str, texts: &[&str]) {
    for text in texts {
        assert!(html.contains(text), "{text} is not in {html}");
    }
}

#[test]
fn failed_host_has_its_reason_output_and_phases() {
    let html = all(&doc("failed", true));
    assert!(!html.contains("<script>"), "{html}");
    has(
        &html,
        &[
            "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>",
            "ERROR</pre>",
            "<td class=\"num\">1\u{202f}588 ms</td>",
            "<rect class=\"work\" x=\"4.12\" width=\"15.88\"",
            "<rect class=\"bad\" x=\"20.00\" width=\"80.00\"",
            "<p>10.0 s</p>",
            "fetched 412 ms, staged 1\u{202f}588 ms, failed 8\u{202f}000 ms",
            "<td class=\"num\">15</td>",
            "<b>v93</b> <span class=\"pill work\">changes</span>",
            "<td class=\"num\">1 MiB</td>",
            "<dt>Exit code</dt><dd>7<small>reason: script</small>",
            "/confirm?verb=retry&amp;host=web-11&amp;name=shop",
            "/confirm?verb=host+hold&amp;host=web-11",
            "/confirm?verb=host+label&amp;host=web-11&amp;label=rack",
        ],
    );
}

#[test]
fn reader_sees_no_actions_and_healthy_host_shows_no_problem() {
    assert!(!all(&doc("failed", false)).contains("/confirm"));
    let html = all(&doc("healthy", true));
    assert!(!html.contains("class=\"need") && !html.contains("retry"), "{html}");
}

#[test]
fn sections_stay_the_same_while_time_passes() {
    let (before, mut after) = (doc("healthy", true), doc("healthy", true));
    after.configurations[0].status.last_seen = at(1 << 33);
    assert_eq!(all(&before), all(&after));
}

#[test]
fn held_host_can_be_released() {
    let mut held = doc("held", true);
    let message = "disk <b>".to_owned();
    held.host.hold = Some(HostHold { message, who: "anna".to_owned(), since: at(60) });
    let html = all(&held);
    has(&html, &["Held: disk &lt;b&gt;", "/confirm?verb=host+release&amp;host=web-11"]);
    assert!(!html.contains("host+hold"), "{html}");
}

#[test]
fn each_configuration_has_its_parts() {
    let mut two = doc("failed", true);
    let mut other = two.configurations[0].clone();
    other.status.configuration = "edge".to_owned();
    two.configurations.push(other);
    two.running.push(Running::default());
    let html = all(&two);
    has(&html, &["<h3>shop</h3>", "<h3>edge</h3>", "2 configurations", "Retry edge: deploy"]);
    assert_eq!(html.matches("<dt>Runs</dt>").count(), 2);
}

#[test]
fn host_without_configurations_says_what_to_type() {
    let mut none = doc("failed", false);
    none.configurations.clear();
    none.running.clear();
    none.host.labels.clear();
    let html = host_head::head(&none).html.into_string() + &labels(&none).html.into_string();
    has(&html, &["has not reported on any configuration", "ssh registry host label web-11"]);
}

#[test]
fn agent_that_only_polls_has_a_head() {
    let html = host_head::polling_head(&[status("unknown")]).html.into_string();
    has(&html, &["only polls", "Last poll", "&lt;script&gt;"]);
}
