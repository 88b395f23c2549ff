//! Tests the whole path of an archive, from its upload to its deploy, with the real programs. Stock
//! `sftp` and `ssh` upload blobs and make a configuration, `deploy-registry` stores both, and
//! `deploy-agent` deploys the configuration.

use std::fs;
use std::process::Command;

use crate::bench::{Bench, start_registry, terminate};
use deploy_testing::eventually;

#[test]
fn exit_code_gives_the_result_of_a_single_cycle() {
    let bench = Bench::new();
    bench.fails_once(&[], 5, "no configuration \"project1\" in the registry");
    bench.fails_once(&["-key", "stranger"], 4, "error: ");
    bench.fails_once(&["-key", "nope"], 1, "nope");
    let started = bench.agent(&["-key", "nope"]).output().unwrap();
    assert_eq!(started.status.code(), Some(1), "an agent without a key keeps running");
    let refused = "error: dial tcp 127.0.0.1:1: Connection refused (os error 111)\n";
    bench.fails_once(&["-addr", "127.0.0.1:1"], 10, refused);
    let wrong = "SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpWMsb8iJh4aVnhPwA";
    bench.fails_once(&["-fp", wrong], 1, "host key fingerprint mismatch");
    bench.first_configuration();
    let (code, log) = bench.once(&["-v"]);
    assert_eq!(code, Some(0), "{log}");
    let id = bench.state().unwrap().id();
    let update = format!(
        "configuration update available: {id}\n\tcomponent 1: \"code\", version: \"v01\"\n\tcomponent 2: \"config\", version: \"v01\"\n"
    );
    assert!(log.contains(&update), "{log}");
    assert!(log.contains(&format!("switched to the new configuration: {id}\n")), "{log}");
    assert!(log.contains(" script: one\n"), "{log}");
    let root = bench.path(&format!("a1/unpacked/{id}"));
    assert_eq!(fs::read_to_string(root.join("bin")).unwrap(), "run");
    assert_eq!(bench.once(&[]), (Some(0), String::new()));
    assert_eq!(bench.runs(), 1);
}

#[test]
fn log_events_come_in_order_with_their_counts() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-log-format", "json", "-link", "copy"]);
    assert_eq!(code, Some(0), "{log}");
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    let want = [
        "update_available",
        "downloaded",
        "extracted",
        "root_ready",
        "script_started",
        "script_output",
        "script_finished",
        "switched",
    ];
    assert_eq!(names, want);
    let id = bench.state().unwrap().id().to_string();
    for event in events.iter().filter(|event| event["event"] != "script_output") {
        assert_eq!(event["id"], *id, "{event}");
    }
    assert_eq!((&events[1]["layers"], &events[2]["files"]), (&2.into(), &2.into()));
    assert_eq!(events[3]["copied"], 2);
    assert!(events[1]["bytes"].as_u64().unwrap() > 0 && events[6]["ms"].is_u64());
}

#[test]
fn running_agent_survives_registry_restarts_and_ends_cleanly() {
    let mut bench = Bench::new();
    bench.first_configuration();
    let mut agent = bench.start_agent();
    bench.deployed("v01");
    bench.fails_once(&[], 1, &format!("in use by another process (pid {})", agent.id()));
    bench.bump("v02", "two\n");
    bench.deployed("v02");

    let addr = bench.registry.addr.clone();
    bench.registry.process.kill().unwrap();
    bench.registry.process.wait().unwrap();
    eventually("the agent notices the stop", || bench.agent_log().contains("; next try in "));
    bench.registry = start_registry(bench.temp.path(), &addr);
    bench.bump("v03", "three\n");
    bench.deployed("v03");

    agent.kill().unwrap();
    agent.wait().unwrap();
    bench.bump("v04", "four\n");
    let mut agent = bench.start_agent();
    bench.deployed("v04");
    eventually("the script has run four times", || bench.runs() == 4);
    assert_eq!(terminate(&mut agent), Some(0));
    assert!(bench.agent_log().ends_with(" terminated\n"), "{}", bench.agent_log());
}

#[test]
fn sigterm_waits_for_the_script_and_records_its_success() {
    let bench = Bench::new();
    bench.script("#!/bin/sh\nmkfifo go\nread line <go\necho \"$line\" >>runs\n");
    bench.first_configuration();
    let mut agent = bench.start_agent();
    eventually("the script waits", || bench.path("go").exists());
    let pid = agent.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    fs::write(bench.path("go"), "done\n").unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    assert!(bench.state().is_some());
    assert_eq!(bench.runs(), 1);
}

#[test]
fn script_interrupted_by_the_agents_death_runs_again() {
    let bench = Bench::new();
    bench.script("#!/bin/sh\necho run >>runs\nmkfifo go 2>/dev/null || exit 0\nread line <go\n");
    bench.first_configuration();
    let mut agent = bench.start_agent();
    eventually("the script waits", || bench.path("go").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(bench.state(), None);
    // The first script still waits for a line of input. Without that line, the agent would wait for
    // the script forever.
    fs::write(bench.path("go"), "done\n").unwrap();
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(bench.runs(), 2);
}

#[test]
fn missing_script_is_reported_before_any_download() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-script", "./nope.sh"]);
    assert_eq!(code, Some(1));
    let warned = log.find("warning: script \"./nope.sh\": no such file or directory").unwrap();
    assert!(warned < log.find("downloaded 2 of 2 layers").unwrap(), "{log}");
    let failed =
        "error: script \"./nope.sh\": no such file or directory; create the script, or give";
    assert!(log.contains(failed), "{log}");
    assert_eq!(bench.state(), None);
}
