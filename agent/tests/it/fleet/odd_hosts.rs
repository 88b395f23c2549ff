//! Tests hosts with a wrong clock, hosts that were renamed, and hosts that were restored from a
//! snapshot.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};

use deploy_testing::eventually;
use serde_json::json;

use super::{change, document, host, kill, reports_done};
use crate::bench::{Agent, Bench};

/// The path of `libfaketime.so.1`, from Debian's package faketime; `None` if the library is not
/// installed. This library changes the time that a program sees. The test does not use the program
/// `faketime`, because `faketime` would start the agent as its child, and the agent would still run
/// after the test has killed `faketime`.
fn faketime() -> Option<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = libraries
        .map(|directory| directory.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "faketime is missing");
    found
}

/// A wrong clock on a host does no harm, because the registry takes all times from its own clock,
/// and agents send only durations.
#[test]
fn clock_that_is_a_day_off_changes_nothing() {
    let Some(library) = faketime() else { return };
    for offset in ["-1d", "+1d"] {
        let bench = Bench::new();
        bench.first_configuration();
        let log = File::create(bench.path("agent.log")).unwrap();
        let mut agent = bench.agent(&["-poll", "1h", "-host", "web-01"]);
        agent.env("LD_PRELOAD", &library).env("FAKETIME", offset);
        let mut agent = agent.stderr(log).spawn().unwrap();
        reports_done(&bench);
        change(&bench, "v02", "two\n");
        bench.deployed("v02");
        reports_done(&bench);
        let began = document(&bench, "why -host web-01 -json")["configurations"][0]["attempts"][0]
            ["began"]
            .clone();
        let began: jiff::Timestamp = began.as_str().unwrap().parse().unwrap();
        let age = jiff::Timestamp::now().duration_since(began).as_secs();
        assert!((0..600).contains(&age), "{offset}: the deploy began {age} s ago");
        let today = jiff::Timestamp::now().strftime("%Y/%m/%d").to_string();
        assert!(!bench.agent_log().starts_with(&today), "the agent does not see the wrong clock");
        kill(&mut agent);
    }
}

#[test]
fn renamed_host_is_a_new_host_and_an_operator_retires_the_old_name() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::watching(&bench, &[]);
    reports_done(&bench);
    agent.stop();
    let start = || -> Child {
        let log = File::create(bench.path("agent.log")).unwrap();
        bench.agent(&["-poll", "1h", "-host", "db-01"]).stderr(log).spawn().unwrap()
    };
    let mut agent = start();
    eventually("the fleet lists both names", || {
        let fleet = document(&bench, "fleet -name project1 -json");
        let shown: Vec<_> = fleet["hosts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|host| (host["host"].clone(), host["connected"].clone(), host["done"].clone()))
            .collect();
        shown
            == [
                (json!("db-01"), json!(true), json!(true)),
                (json!("web-01"), json!(false), json!(true)),
            ]
    });
    change(&bench, "v02", "two\n");
    bench.deployed("v02");
    // Until an operator retires the old name, every wait times out.
    let wait = |code: i32| {
        let output = bench.operator_output("ssh", &["wait -name project1 -timeout 1s"], "");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    };
    eventually("the host with the new name confirms", || host(&bench)["done"] == true);
    wait(7);
    bench.operator("ssh", &["host retire web-01"], "");
    wait(0);
    kill(&mut agent);
}

#[test]
fn host_restored_from_a_snapshot_catches_up() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::watching(&bench, &[]);
    reports_done(&bench);
    agent.stop();
    let copy = |from: &str, to: &str| {
        let mut command = Command::new("cp");
        command.args(["-a", from, to]).current_dir(bench.temp.path());
        assert!(command.status().unwrap().success());
    };
    copy("a1", "saved-dir");
    copy("state.json", "saved-state");
    let agent = Agent::watching(&bench, &[]);
    for version in ["v02", "v03"] {
        change(&bench, version, "later\n");
        bench.deployed(version);
        reports_done(&bench);
    }
    agent.stop();
    let runs = bench.runs();
    std::fs::remove_dir_all(bench.path("a1")).unwrap();
    copy("saved-dir", "a1");
    copy("saved-state", "state.json");
    let agent = Agent::watching(&bench, &[]);
    bench.deployed("v03");
    reports_done(&bench);
    assert_eq!(bench.runs(), runs + 1);
    assert_eq!(host(&bench)["duplicate"], false);
    agent.stop();
}
