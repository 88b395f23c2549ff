//! Tests real agents that watch a real registry. Changes arrive at the agents without a poll, and
//! the agents report the results.

mod closed_windows;
mod gate;
mod half_open;
mod odd_hosts;
mod old_registry;
mod twenty_agents;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use deploy_testing::eventually;
use serde_json::{Value, json};

use crate::bench::{Agent, Bench, deployed, says, start_registry};
use old_registry::OldRegistry;

/// Runs an operator's command at the registry, and returns the JSON document of the answer.
fn document(bench: &Bench, line: &str) -> Value {
    serde_json::from_str(&bench.operator("ssh", &[line], "")).unwrap()
}

/// The registry's record of the host; null before the host's first report.
fn host(bench: &Bench) -> Value {
    document(bench, "fleet -name project1 -json")["hosts"][0].clone()
}

/// The deploy attempts on the host, oldest first, and the output of the last attempt.
fn attempts(bench: &Bench) -> (Vec<Value>, String) {
    let why = document(bench, "why -host web-01 -name project1 -json");
    let one = &why["configurations"][0];
    let mut attempts = one["attempts"].as_array().unwrap().clone();
    attempts.reverse();
    (attempts, one["output"].as_str().unwrap().to_owned())
}

#[track_caller]
fn reports(bench: &Bench, phase: &str) {
    eventually(phase, || host(bench)["phase"] == phase);
}

fn reports_done(bench: &Bench) {
    eventually("the change is confirmed", || host(bench)["done"] == true);
}

fn change(bench: &Bench, version: &str, contents: &str) {
    bench.add_version("config", version, "conf", contents);
    bench.operator("ssh", &["bumpconf -name project1 -component config"], "");
}

fn kill(process: &mut std::process::Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn change_is_deployed_immediately_and_confirmed() {
    let bench = Bench::new();
    bench.first_configuration();
    let metrics = bench.path("agent.prom");
    let agent = Agent::watching(&bench, &["-metrics-file", metrics.to_str().unwrap()]);
    bench.deployed("v01");
    reports_done(&bench);
    bench.add_version("config", "v02", "conf", "two\n");
    let began = Instant::now();
    bench.operator("ssh", &["bumpconf -name project1 -component config"], "");
    bench.deployed("v02");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    reports_done(&bench);
    let shown = host(&bench);
    assert_eq!((&shown["phase"], &shown["connected"]), (&json!("healthy"), &json!(true)));
    let (tried, output) = attempts(&bench);
    assert_eq!((tried.len(), &*output), (2, "two\n"), "{tried:#?}");
    let steps = tried[1]["steps"].as_array().unwrap();
    let phases: Vec<&str> = steps.iter().map(|step| step["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["fetched", "staged", "script", "healthy"]);
    // After a change and its reversal, the configuration is the same, but the revision differs.
    bench.operator("ssh", &["changeconf -name project1 -component config -version v01"], "");
    bench.operator("ssh", &["changeconf -name project1 -component config -version v02"], "");
    reports_done(&bench);

    // The agent writes its reports to the disk a moment after it has sent them.
    eventually("the acknowledgement is recorded", || {
        let reports = &says(&bench, &["status", "-json"], 0, "").json()["reports"];
        reports["last"]["phase"] == "healthy" && reports["waiting"] == 0
    });
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!((&status["host"], &status["watching"]), (&json!("web-01"), &json!(true)));
    assert!(says(&bench, &["status"], 0, "").out.contains("host           web-01   watching\n"));
    eventually("the metrics have the last deploy", || {
        fs::read_to_string(&metrics).is_ok_and(|text| {
            text.contains("deploy_agent_phase{configuration=\"project1\",phase=\"healthy\"} 1\n")
                && text.contains("deploy_agent_watch_live{configuration=\"project1\"} 1\n")
                && text.contains("deploy_agent_deploy_duration_seconds{configuration=\"project1\",step=\"staged\"} ")
        })
    });
    agent.stop();
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["watching"], false);
    assert!(
        fs::read_to_string(&metrics)
            .unwrap()
            .contains("deploy_agent_watch_live{configuration=\"project1\"} 0\n")
    );
}

#[test]
fn failed_script_is_reported_with_its_output_and_exit_code() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::watching(&bench, &[]);
    bench.deployed("v01");
    bench.script("#!/bin/sh\necho no such table: users\nexit 3\n");
    change(&bench, "v02", "two\n");
    reports(&bench, "failed");
    let shown = host(&bench);
    assert_eq!((&shown["reason"], &shown["runs"]), (&json!("script"), &json!(1)), "{shown:#}");
    assert!(shown["message"].as_str().unwrap().contains("exit status 3"), "{shown:#}");
    let (tried, output) = attempts(&bench);
    assert_eq!(tried[1]["exit_code"], 3);
    assert_eq!(output, "no such table: users\n");
    bench.script("#!/bin/sh\necho fixed\n");
    bench.operator("ssh", &["retry -host web-01"], "");
    bench.deployed("v02");
    reports_done(&bench);
    let (tried, output) = attempts(&bench);
    assert_eq!((&tried[2]["phase"], &*output), (&json!("healthy"), "fixed\n"));
    agent.stop();
}

/// A script that waits for the file `go`, and then exits with the code in that file.
const WAITING: &str = "#!/bin/sh\necho \"$NEWID\" >>runs\nuntil test -s go; do sleep 0.01; done\n\
    echo gone\nexit $(cat go)\n";

#[test]
fn result_arrives_although_the_registry_was_killed_during_the_script() {
    let mut bench = Bench::new();
    bench.first_configuration();
    bench.script(WAITING);
    let addr = bench.registry.addr.clone();
    let mut process = bench
        .agent(&["-poll", "1h", "-host", "web-01"])
        .stderr(fs::File::create(bench.path("agent.log")).unwrap())
        .spawn()
        .unwrap();
    eventually("the script runs", || bench.runs() == 1);
    reports(&bench, "script");
    kill(&mut bench.registry.process);
    fs::write(bench.path("go"), "0").unwrap();
    eventually("the script has ended", || bench.agent_log().contains("switched to"));
    bench.registry = start_registry(bench.temp.path(), &addr);
    reports_done(&bench);
    let (tried, output) = attempts(&bench);
    assert_eq!((tried.len(), &*output), (1, "gone\n"), "{tried:#?}");
    kill(&mut process);
}

#[test]
fn result_arrives_although_the_agent_was_killed_after_the_script() {
    for code in ["0", "3"] {
        let mut bench = Bench::new();
        bench.first_configuration();
        bench.script(WAITING);
        let addr = bench.registry.addr.clone();
        let start = |bench: &Bench| {
            let log = fs::File::options().create(true).append(true).open(bench.path("agent.log"));
            let mut agent = bench.agent(&["-poll", "1h", "-host", "web-01"]);
            agent.stderr(log.unwrap()).spawn().unwrap()
        };
        let mut first = start(&bench);
        eventually("the script runs", || bench.runs() == 1);
        kill(&mut bench.registry.process);
        fs::write(bench.path("go"), code).unwrap();
        let ended = if code == "0" { "switched to" } else { "exit status 3" };
        eventually("the script has ended", || bench.agent_log().contains(ended));
        kill(&mut first);
        // The test also removes the file with the agent's reports, so the next agent must derive
        // its report from other records.
        let _ = fs::remove_file(bench.path("a1/report.json"));
        if code == "3" {
            bench.script("#!/bin/sh\necho \"$NEWID\" >>runs\necho second\n");
        }
        bench.registry = start_registry(bench.temp.path(), &addr);
        let mut second = start(&bench);
        reports_done(&bench);
        let (tried, output) = attempts(&bench);
        if code == "0" {
            assert_eq!((tried.len(), bench.runs()), (1, 1), "the script ran again: {tried:#?}");
        } else {
            let failed = tried.iter().find(|one| one["phase"] == "failed");
            let failed = failed.unwrap_or_else(|| panic!("{tried:#?}"));
            assert_eq!((&failed["exit_code"], &*output), (&json!(3), "second\n"));
        }
        kill(&mut second);
    }
}

#[test]
fn held_host_deploys_nothing_until_it_is_released() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::watching(&bench, &[]);
    reports_done(&bench);
    bench.operator("ssh", &["host hold web-01 -m 'new disk'"], "");
    reports(&bench, "held");
    change(&bench, "v02", "two\n");
    let synced = says(&bench, &["sync", "-json"], 1, "").json();
    assert_eq!(synced["outcome"], "held", "{synced}");
    assert_eq!(deployed(&bench), "v01");
    let shown = host(&bench);
    assert_eq!((&shown["reason"], &shown["message"]), (&json!("operator"), &json!("new disk")));
    agent.stop();
    // A new agent learns of the hold before its first cycle.
    let agent = Agent::watching(&bench, &[]);
    says(&bench, &["sync"], 1, "an operator holds this host");
    assert_eq!(deployed(&bench), "v01");
    bench.operator("ssh", &["host release web-01"], "");
    bench.deployed("v02");
    reports_done(&bench);
    let log = bench.agent_log();
    assert_eq!(log.matches("an operator holds this host: new disk").count(), 2, "{log}");
    agent.stop();
}

#[test]
fn rollback_on_the_host_is_reported_and_a_retry_ends_its_hold() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::watching(&bench, &[]);
    reports_done(&bench);
    change(&bench, "v02", "two\n");
    reports_done(&bench);
    says(&bench, &["rollback"], 0, "rolled back to");
    reports(&bench, "held");
    let shown = host(&bench);
    assert_eq!((&shown["runs"], &shown["wants"]), (&json!(1), &json!(2)), "{shown:#}");
    assert!(shown["message"].as_str().unwrap().contains("rolled back from"), "{shown:#}");
    agent.stop();
    let agent = Agent::watching(&bench, &[]);
    says(&bench, &["sync"], 1, "on hold after a rollback");
    bench.operator("ssh", &["retry -host web-01"], "");
    bench.deployed("v02");
    reports_done(&bench);
    agent.stop();
    // When an agent starts, it reads from its directory how many retries it has already made.
    // Therefore the last agent below does not make the retry a second time, and keeps the hold.
    let agent = Agent::watching(&bench, &[]);
    bench.operator("ssh", &["changeconf -name project1 -component config -version v01"], "");
    bench.deployed("v01");
    says(&bench, &["rollback"], 0, "rolled back to");
    agent.stop();
    let agent = Agent::watching(&bench, &[]);
    says(&bench, &["sync"], 1, "on hold after a rollback");
    agent.stop();
}

#[test]
fn single_cycle_delivers_its_report() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&["-host", "web-01"]).0, Some(0));
    let shown = host(&bench);
    assert_eq!((&shown["phase"], &shown["done"]), (&json!("healthy"), &json!(true)), "{shown:#}");
    bench.script("#!/bin/sh\nexit 4\n");
    change(&bench, "v02", "two\n");
    assert_eq!(bench.once(&["-host", "web-01"]).0, Some(1));
    assert_eq!(
        (&host(&bench)["phase"], &attempts(&bench).0[1]["exit_code"]),
        (&json!("failed"), &json!(4))
    );
    assert_eq!(bench.once(&["-host", "a b"]).0, Some(2));
}

#[test]
fn registry_without_watches_is_polled() {
    let Some(old) = OldRegistry::start() else { return };
    let bench = Bench::new();
    let one = old.configure("one\n");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
    agent
        .args(["-addr", &old.addr, "-fp", &old.fingerprint, "-key", "srv", "-dir", "a1"])
        .args(["-name", "project1", "-state", "state.json", "-poll", "50ms"])
        .current_dir(bench.temp.path())
        .stderr(fs::File::create(bench.path("agent.log")).unwrap());
    let mut agent = agent.spawn().unwrap();
    let is = |id: &str| bench.state().is_some_and(|state| state.id().to_string() == id);
    eventually("the first configuration is deployed", || is(&one));
    let two = old.configure("two\n");
    eventually("the second configuration is deployed", || is(&two));
    assert_eq!(old.refused(), 1, "the agent asks again only on a new connection");
    let log = bench.agent_log();
    assert!(!log.contains("warning") && !log.contains("watch"), "{log}");
    kill(&mut agent);
}
