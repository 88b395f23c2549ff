//! Tests the health gate in a fleet. The registry learns the result of the gate. A newer
//! configuration interrupts the gate. An operator's request interrupts or repeats the gate.

use std::fs;

use deploy_testing::eventually;
use serde_json::json;

use super::{attempts, change, document, host, reports, reports_done};
use crate::bench::{Agent, Bench, deployed, says};
use crate::health::gated::{QUICK, SLOW, active, bench, check};

/// An agent with a watch and a gate. The flags `more` come last.
fn gated<'a>(bench: &'a Bench, more: &[&str]) -> Agent<'a> {
    Agent::watching(bench, &[&["-health", "cmd:./check"], more].concat())
}

/// The exit code of the registry's command `wait` in the present state.
fn wait(bench: &Bench) -> Option<i32> {
    let output = bench.operator_output("ssh", &["wait -name project1 -timeout 20s"], "");
    output.status.code()
}

/// A bench whose health check succeeds for `v01`, and fails for every other version.
fn only_one_is_healthy() -> Bench {
    let bench = bench();
    check(&bench, "grep -q one active && exit; echo no database; exit 1");
    bench
}

#[test]
fn failed_gate_is_reported_as_rolled_back_and_wait_fails() {
    let bench = only_one_is_healthy();
    let agent = gated(&bench, &QUICK);
    reports_done(&bench);
    assert_eq!(wait(&bench), Some(0));
    let (tried, _) = attempts(&bench);
    let steps = tried[0]["steps"].as_array().unwrap();
    let phases: Vec<&str> = steps.iter().map(|step| step["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["fetched", "staged", "script", "checking", "healthy"]);

    change(&bench, "v02", "two\n");
    assert_eq!(wait(&bench), Some(1));
    reports(&bench, "rolled_back");
    let shown = host(&bench);
    assert_eq!((&shown["reason"], &shown["done"]), (&json!("health"), &json!(false)), "{shown:#}");
    assert_eq!((&shown["runs"], &shown["wants"]), (&json!(1), &json!(2)), "{shown:#}");
    let message = shown["message"].as_str().unwrap();
    assert!(message.starts_with("health cmd ./check: exit status 1: no database, "), "{message}");
    assert_eq!((deployed(&bench).as_str(), active(&bench).as_str()), ("v01", "one"));
    assert_eq!(attempts(&bench).0.len(), 2);

    // The next agent reports the same result, although the test has removed the waiting reports.
    agent.stop();
    fs::remove_file(bench.path("a1/report.json")).unwrap();
    let agent = gated(&bench, &QUICK);
    says(&bench, &["sync"], 1, "no database");
    let again = host(&bench);
    for field in ["phase", "reason", "runs", "wants", "message"] {
        assert_eq!(again[field], shown[field], "{again:#}");
    }
    agent.stop();
}

#[test]
fn kept_configuration_counts_as_failed_until_a_retry_finds_it_healthy() {
    let bench = only_one_is_healthy();
    let agent = gated(&bench, &[&QUICK[..], &["-on-failure", "hold"]].concat());
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    assert_eq!(wait(&bench), Some(1));
    reports(&bench, "failed");
    let shown = host(&bench);
    assert_eq!((&shown["reason"], &shown["done"]), (&json!("health"), &json!(false)), "{shown:#}");
    assert_eq!((&shown["runs"], &shown["wants"]), (&json!(2), &json!(2)), "{shown:#}");
    let message = shown["message"].as_str().unwrap();
    assert!(message.contains("no database") && message.ends_with(" is kept"), "{message}");
    says(&bench, &["sync"], 1, "not healthy");
    // The report of the second try arrives a moment later.
    eventually("the second try is reported", || attempts(&bench).0.len() == 3);
    reports(&bench, "failed");

    let runs = bench.runs();
    check(&bench, "exit 0");
    bench.operator("ssh", &["retry -host web-01"], "");
    reports_done(&bench);
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v02", runs));
    assert_eq!(wait(&bench), Some(0));
    let (tried, _) = attempts(&bench);
    let phases: Vec<&str> = tried.iter().map(|one| one["phase"].as_str().unwrap()).collect();
    // The subcommand `sync` also caused a try.
    assert_eq!(phases, ["healthy", "failed", "failed", "healthy"]);
    agent.stop();
}

#[test]
fn retry_deploys_a_rejected_configuration_again() {
    let bench = only_one_is_healthy();
    let agent = gated(&bench, &QUICK);
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    reports(&bench, "rolled_back");
    check(&bench, "exit 0");
    bench.operator("ssh", &["retry -host web-01"], "");
    reports_done(&bench);
    assert_eq!((deployed(&bench).as_str(), active(&bench).as_str()), ("v02", "two"));
    assert!(!bench.path("a1/hold.json").exists());
    agent.stop();
}

#[test]
fn newer_configuration_interrupts_the_gate_and_is_deployed() {
    let bench = only_one_is_healthy();
    check(&bench, "grep -qv two active");
    let agent = gated(&bench, &SLOW);
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    reports(&bench, "checking");
    let shown = host(&bench);
    assert_eq!((&shown["runs"], &shown["done"]), (&json!(2), &json!(false)), "{shown:#}");
    change(&bench, "v03", "three\n");
    bench.deployed("v03");
    reports_done(&bench);
    let log = bench.agent_log();
    assert!(log.contains("ends without a result") && !log.contains("is not healthy"), "{log}");
    assert_eq!(document(&bench, "fleet -name project1 -json")["hosts"][0]["runs"], 3);
    // The rollback returns to the last healthy configuration, and not to the configuration whose
    // gate was interrupted.
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(deployed(&bench), "v01");
    agent.stop();
}

#[test]
fn gate_of_a_held_host_ends_and_nothing_new_is_deployed() {
    let bench = only_one_is_healthy();
    let agent = gated(&bench, &SLOW);
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    reports(&bench, "checking");
    bench.operator("ssh", &["host hold web-01 -m 'new disk'"], "");
    eventually("the gate begins again", || {
        bench.agent_log().matches("checking whether").count() >= 3
    });
    change(&bench, "v03", "three\n");
    check(&bench, "exit 0");
    reports(&bench, "held");
    assert_eq!(deployed(&bench), "v02");
    assert!(!bench.path("a1/checking.json").exists());
    bench.operator("ssh", &["host release web-01"], "");
    bench.deployed("v03");
    reports_done(&bench);
    agent.stop();
}

#[test]
fn gate_of_a_killed_agent_is_reported_and_its_result_belongs_to_the_same_deploy() {
    let bench = only_one_is_healthy();
    let start = |more: &[&str]| {
        let mut agent = bench.agent(&["-poll", "1h", "-host", "web-01", "-health", "cmd:./check"]);
        agent.args(more).stderr(fs::File::create(bench.path("agent.log")).unwrap()).spawn().unwrap()
    };
    let mut first = start(&SLOW);
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    reports(&bench, "checking");
    super::kill(&mut first);
    let mut second = start(&SLOW);
    eventually("the gate begins again", || bench.agent_log().contains("checking whether"));
    assert_eq!(host(&bench)["phase"], "checking");
    check(&bench, "exit 0");
    reports_done(&bench);
    assert_eq!((attempts(&bench).0.len(), bench.runs()), (2, 2));
    super::kill(&mut second);
}
