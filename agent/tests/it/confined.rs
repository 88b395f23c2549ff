//! Tests which threads and processes the agent confines. The tests read the restrictions from the
//! agent's status and from a copy of the script's `/proc/self/status`.

use std::fs;

use crate::bench::{Agent, Bench, ask};
use deploy_testing::eventually;

/// The value of one line in a copy of `/proc/PID/status` that the script has made.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().to_owned()
}

#[test]
fn only_archive_readers_are_confined_and_the_log_says_so() {
    let bench = Bench::new();
    // The script can write outside the agent's directory and has all privileges of the agent.
    bench.script("#!/bin/sh\ncat /proc/self/status >script.status\nexec true\n");
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    eventually("the agent has deployed", || bench.state().is_some());
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let scripts = fs::read_to_string(bench.path("script.status")).unwrap();
    for name in ["NoNewPrivs:", "CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(&scripts, name), field(&ours, name), "{name}");
    }
    let status = ask(&bench, &["status", "-json"]).json();
    let walls = &status["confinement"];
    assert_eq!(walls["no_new_privs"], true, "{status}");
    assert_eq!(walls["capabilities_dropped"], true, "{status}");
    let landlock = walls["landlock"].as_str().unwrap();
    assert!(["full", "partial", "none"].contains(&landlock), "{status}");
    let text = ask(&bench, &["status"]).out;
    let want = format!("confinement    landlock {landlock}, no new privileges, ");
    assert!(text.contains(&want), "{text}");
    let log = bench.agent_log();
    assert!(log.contains(&format!("confinement: landlock {landlock}, ")), "{log}");
    agent.stop();
}

#[test]
fn confinement_can_be_required_and_disabled() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-confine", "off"]);
    assert_eq!(code, Some(0), "{log}");
    let status = ask(&bench, &["status"]).out;
    assert!(status.contains("\nconfinement    none\n"), "{status}");
    let (code, log) = bench.once(&["-confine", "auto"]);
    assert_eq!(code, Some(0), "{log}");
    let whole = ask(&bench, &["status", "-json"]).json()["confinement"]["landlock"] == "full";
    let (code, log) = bench.once(&["-confine=require"]);
    if whole {
        assert_eq!(code, Some(0), "{log}");
    } else {
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("-confine require was given, but this system has only"), "{log}");
    }
}
