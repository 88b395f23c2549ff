//! Tests the metrics of the registry.

use std::fmt::Debug;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use super::watcher::Watch;
use super::{change, start};
use crate::rig::{Rig, wait_until};

#[track_caller]
fn has_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|one| one == *line), "{line} is not in\n{text}");
    }
}

/// The value of a metric. `metric` is the name, with the labels if there are any.
#[track_caller]
fn value<T: FromStr<Err: Debug>>(text: &str, metric: &str) -> T {
    let values = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let mut values: Vec<T> = values.map(|value| value.parse().unwrap()).collect();
    assert_eq!(values.len(), 1, "{metric} in\n{text}");
    values.remove(0)
}

/// Checks the names and types of the metrics with promtool, which is in Debian's package
/// prometheus.
fn check_with_promtool(text: &str) {
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        assert!(std::env::var_os("CI").is_none(), "promtool is missing; scripts/needs installs it");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(promtool.wait().unwrap().success(), "{text}");
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn agents(rig: &Rig, count: usize) -> Vec<Watch> {
    let begin = |n| Watch::begin(rig, "srv", "web", &format!("web-{n:02}"), &format!("a{n}"));
    let mut watches: Vec<Watch> = (0..count).map(begin).collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    watches
}

#[test]
fn metrics_count_hosts_and_reports() {
    let rig = start(&[]);
    let watches = agents(&rig, 1);
    change(&rig, "v2");
    watches[0].offer();
    let text = rig.ok("metrics");
    has_lines(
        &text,
        &[
            "deploy_registry_agents_connected 1",
            "deploy_registry_hosts{configuration=\"web\",phase=\"healthy\"} 1",
            "deploy_registry_hosts_behind{configuration=\"web\"} 1",
            "deploy_registry_hosts_held{configuration=\"web\"} 0",
            "deploy_registry_reports_total{result=\"new\"} 1",
            "deploy_registry_push_latency_seconds_count 1",
            "deploy_registry_connections_refused_total{reason=\"agents\"} 0",
            "deploy_registry_reports_waiting 0",
            "deploy_registry_rollout_active{configuration=\"web\"} 0",
            "deploy_registry_configurations 1",
            "deploy_registry_states 2",
            "deploy_registry_versions 3",
        ],
    );
    let version =
        concat!("deploy_registry_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1");
    has_lines(&text, &[version]);
    let started: i64 = value(&text, "deploy_registry_start_time_seconds");
    let now = now();
    assert!(started <= now && started > now - 300, "{started} {now}");
    let free: u64 = value(&text, "deploy_registry_store_free_bytes");
    assert!(free > 0 && free <= value(&text, "deploy_registry_store_capacity_bytes"), "{text}");
    check_with_promtool(&text);
}

#[test]
fn metrics_show_the_budget_and_the_results_of_a_rollout() {
    let rig = start(&[]);
    let mut hosts = agents(&rig, 4);
    rig.ok("rollout start -name web -layer code:v2 -waves 3,100% -soak 1h -max-failed 1");
    let fail = |watch: &mut Watch| {
        let offer = watch.offer();
        let report = json!({
            "seq": 2, "revision": offer["revision"], "attempt": 2, "phase": "failed",
            "wants": offer["id"], "reason": "script", "exit_code": 3,
        });
        watch.report(&report);
    };
    fail(&mut hosts[0]);
    let offer = hosts[1].offer();
    hosts[1].healthy(2, &offer);
    let shows = |line: &str| rig.ok("metrics").lines().any(|one| one == line);
    wait_until("a host has a good result", || {
        shows("deploy_registry_rollout_hosts{configuration=\"web\",result=\"good\"} 1")
    });
    let text = rig.ok("metrics");
    has_lines(
        &text,
        &[
            "deploy_registry_rollout_active{configuration=\"web\"} 1",
            "deploy_registry_rollout_halted{configuration=\"web\"} 0",
            "deploy_registry_rollout_wave{configuration=\"web\"} 1",
            "deploy_registry_rollout_waves{configuration=\"web\"} 2",
            "deploy_registry_rollout_budget{configuration=\"web\"} 1",
            "deploy_registry_rollout_budget_remaining{configuration=\"web\"} 0",
            "deploy_registry_rollout_hosts{configuration=\"web\",result=\"failed\"} 1",
            "deploy_registry_rollout_hosts{configuration=\"web\",result=\"open\"} 1",
            "deploy_registry_rollout_hosts{configuration=\"web\",result=\"waiting\"} 1",
            "deploy_registry_hosts_failed{configuration=\"web\"} 1",
        ],
    );
    check_with_promtool(&text);
    rig.ok("rollout pause -name web");
    assert!(shows("deploy_registry_rollout_paused{configuration=\"web\"} 1"));
    rig.ok("rollout resume -name web");
    fail(&mut hosts[2]);
    wait_until("the rollout halts", || {
        shows("deploy_registry_rollout_halted{configuration=\"web\"} 1")
    });
    rig.ok("rollout abort -name web");
    let text = rig.ok("metrics");
    has_lines(&text, &["deploy_registry_rollout_halted{configuration=\"web\"} 0"]);
    assert!(
        !text.contains("deploy_registry_rollout_hosts"),
        "a metric of the ended rollout is left: {text}"
    );
}

#[test]
fn metrics_show_silent_and_duplicate_hosts() {
    let rig = start(&[]);
    let mut hosts = agents(&rig, 2);
    // An agent that does not watch keeps no connection, so its host never counts as silent.
    let id = "0".repeat(64);
    let told = super::agent(&rig, &format!("report -name web -host old-01 -id {id} -code 0"));
    assert!(told.status.success(), "{told:?}");
    let is_silent = || {
        let metric = "deploy_registry_host_oldest_report_age_seconds{configuration=\"web\"}";
        value::<f64>(&rig.ok("metrics"), metric) > 1.0
    };
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!is_silent(), "a connected host counts as silent");
    drop(hosts.pop());
    wait_until("the host is silent", is_silent);
    rig.ok("host hold web-01 -m repair");
    assert!(!is_silent(), "a held host counts as silent");
    let duplicates = || {
        let metric = "deploy_registry_hosts_duplicate{configuration=\"web\"}";
        value::<u64>(&rig.ok("metrics"), metric)
    };
    assert_eq!(duplicates(), 0);
    let clone = Watch::begin(&rig, "srv", "web", "web-00", "b2");
    clone.next();
    assert_eq!(duplicates(), 1);
}

#[test]
fn metrics_show_when_gc_and_verify_succeeded() {
    let rig = start(&["-verify-rate", "0"]);
    let text = rig.ok("metrics");
    assert!(!text.contains("verify_last") && !text.contains("gc_last"), "{text}");
    has_lines(&text, &["deploy_registry_gc_due 1"]);
    let begun = now();
    rig.ok("verify");
    rig.ok("gc");
    // Only a verify of all files sets this time.
    let whole = "deploy_registry_verify_last_success_timestamp_seconds";
    let first: i64 = value(&rig.ok("metrics"), whole);
    assert!(first >= begun, "{first} {begun}");
    std::thread::sleep(Duration::from_millis(1100));
    rig.ok("verify -sample 1%");
    let text = rig.ok("metrics");
    assert_eq!(value::<i64>(&text, whole), first);
    has_lines(&text, &["deploy_registry_verify_last_damaged 0"]);
    assert!(value::<i64>(&text, "deploy_registry_gc_last_success_timestamp_seconds") >= begun);
}
