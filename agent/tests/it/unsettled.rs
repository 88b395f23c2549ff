//! Tests that a failed script leaves the server unsettled: the server does not count as up to date
//! until a script succeeds. If the registry or an operator rolls back, the agent runs the script
//! again for the deployed configuration.

mod local_rollbacks;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bench::{Agent, Bench, deployed, says};
use deploy_store::{Configuration, Digest};
use deploy_testing::eventually;
use serde_json::Value;

/// The script records its roots, stops the service, and starts the service with the new root. The
/// script fails if `conf` contains `bad`, or if the file `fails` exists. It waits while the file
/// `wait` exists.
const SCRIPT: &str = "#!/bin/sh\n\
    echo \"$(basename \"$OLDROOT\") $(basename \"$NEWROOT\")\" >>runs\n\
    test -d \"$NEWROOT\" || exit 9\n\
    test -z \"$OLDROOT\" || test -d \"$OLDROOT\" || exit 8\n\
    rm -f service\n\
    if test -e wait; then : >waits; while test -e wait; do sleep 0.02; done; rm -f waits; fi\n\
    grep -q bad \"$NEWROOT/conf\" && exit 3\n\
    test -e fails && exit 4\n\
    cp \"$NEWROOT/conf\" service\n";

/// Deploys version v01. Returns the configuration's id.
fn begun(bench: &Bench) -> String {
    bench.script(SCRIPT);
    bench.first_configuration();
    assert_eq!(bench.once(&[]).0, Some(0));
    let id = bench.state().unwrap().id().to_string();
    assert_eq!(runs(bench), [format!(" {id}")]);
    id
}

fn runs(bench: &Bench) -> Vec<String> {
    let runs = fs::read_to_string(bench.path("runs")).unwrap_or_default();
    runs.lines().map(str::to_owned).collect()
}

fn last(bench: &Bench) -> String {
    runs(bench).pop().unwrap_or_default()
}

fn service(bench: &Bench) -> Option<String> {
    fs::read_to_string(bench.path("service")).ok()
}

fn change(bench: &Bench, version: &str) {
    let line = format!("changeconf -name project1 -component config -version {version}");
    bench.operator("ssh", &[&line], "");
}

/// The id of the registry's configuration.
fn offered(bench: &Bench) -> String {
    let json = bench.operator("ssh", &["showconf -name project1 -json"], "");
    Configuration::from_json(json.as_bytes()).unwrap().id().to_string()
}

fn status(bench: &Bench) -> Value {
    says(bench, &["status", "-json"], 0, "").json()["unsettled"].clone()
}

fn settled(bench: &Bench) {
    assert_eq!(status(bench), Value::Null);
    assert!(!bench.path("a1/unsettled.json").exists() && !bench.path("a1/script.json").exists());
}

fn ask_beside(bench: &Bench, verb: &str) -> Child {
    let mut asking = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
    asking.args([verb, "-dir", "a1"]).current_dir(bench.temp.path());
    asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn registry_rollback_reruns_the_script_with_the_good_root() {
    for failures in 1..=3 {
        let bench = Bench::new();
        let good = begun(&bench);
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 0, "up to date");
        let mut failed = String::new();
        for n in 1..=failures {
            bench.bump(&format!("v1{n}"), &format!("bad {n}\n"));
            failed = offered(&bench);
            let said = says(&bench, &["sync"], 1, "exit status 3");
            assert!(
                said.out.contains(&format!("unsettled: the script did not succeed for {failed}"))
            );
            assert_eq!(last(&bench), format!("{good} {failed}"));
            let left = status(&bench);
            assert_eq!((&left["id"], &left["failures"]), (&failed.clone().into(), &n.into()));
            assert_eq!((&left["registry"], &left["old_id"]), (&left["id"], &good.clone().into()));
            assert!(left["error"].as_str().unwrap().contains("exit status 3"), "{left}");
            assert!(left["failed"].is_string() && left["next"].is_string(), "{left}");
        }
        let text =
            says(&bench, &["status"], 0, &format!("unsettled      {failed}   script failed")).out;
        assert!(
            text.contains("next try       2") && text.contains(&format!("registry has   {failed}"))
        );
        assert_eq!(service(&bench), None);
        // An agent that runs without `-once` needs only one poll.
        change(&bench, "v01");
        says(&bench, &["sync"], 0, "switched to");
        assert_eq!(last(&bench), format!("{failed} {good}"), "{:#?}", runs(&bench));
        assert_eq!((service(&bench).as_deref(), &*deployed(&bench)), (Some("one\n"), "v01"));
        assert_eq!(runs(&bench).len(), 2 + failures);
        settled(&bench);
        says(&bench, &["sync"], 0, "up to date");
        bench.bump("v20", "two\n");
        says(&bench, &["sync"], 0, "switched to");
        assert_eq!(last(&bench), format!("{good} {}", offered(&bench)));
        agent.stop();
    }
}

#[test]
fn failed_rollback_of_the_registry_is_retried_even_by_a_new_agent() {
    let bench = Bench::new();
    let good = begun(&bench);
    bench.bump("v02", "bad\n");
    let bad = offered(&bench);
    assert_eq!(bench.once(&[]).0, Some(1));
    fs::write(bench.path("fails"), "").unwrap();
    bench.operator("ssh", &["rollback -name project1"], "");
    for _ in 0..2 {
        let (code, log) = bench.once(&[]);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("the script runs again for"), "{log}");
        assert_eq!(last(&bench), format!("{bad} {good}"));
    }
    assert_eq!(status(&bench)["failures"], 3);
    says(&bench, &["status"], 0, "next try       at the next poll");
    let agent = Agent::start(&bench, &["-poll", "100ms"]);
    let before = runs(&bench).len();
    eventually("the agent tries by itself", || runs(&bench).len() > before);
    let said = says(&bench, &["sync"], 1, "exit status 4").out;
    assert!(!said.contains("up to date"), "{said}");
    fs::remove_file(bench.path("fails")).unwrap();
    eventually("the script succeeds", || service(&bench).is_some());
    assert_eq!(last(&bench), format!("{bad} {good}"));
    eventually("the server is settled", || status(&bench).is_null());
    agent.stop();
    settled(&bench);
}

/// Whether the agent has recorded the start of the running script.
fn is_noted(bench: &Bench) -> bool {
    let json = fs::read(bench.path("a1/script.json")).unwrap_or_default();
    let noted: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    noted["pid"].as_u64().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

/// Calls `run`, kills the agent while its script waits, starts another agent, and lets the script
/// end. Returns the new agent.
fn killed_meanwhile<'a>(
    bench: &'a Bench,
    what: &str,
    agent: Agent<'a>,
    run: impl Fn(),
) -> Agent<'a> {
    fs::write(bench.path("wait"), "").unwrap();
    run();
    let mut asking = ask_beside(bench, "sync");
    eventually(what, || bench.path("waits").exists() && is_noted(bench));
    drop(agent);
    asking.wait().unwrap();
    assert!(!bench.path("a1/unsettled.json").metadata().unwrap().len().eq(&0));
    let waits = bench.agent_log().matches("waiting for the script's end").count();
    let agent = Agent::start(bench, &[]);
    eventually("the next agent waits", || {
        bench.agent_log().matches("waiting for the script's end").count() > waits
    });
    fs::remove_file(bench.path("wait")).unwrap();
    agent
}

#[test]
fn kills_do_not_change_how_an_unsettled_server_recovers() {
    let bench = Bench::new();
    let good = begun(&bench);
    let agent = Agent::start(&bench, &[]);
    // The agent is killed while the script runs for a bad configuration.
    let agent = killed_meanwhile(&bench, "the bad script runs", agent, || {
        bench.bump("v02", "bad\n");
    });
    let bad = offered(&bench);
    says(&bench, &["sync"], 1, "exit status 3");
    // The agent is killed while the script runs for the previous configuration.
    let agent = killed_meanwhile(&bench, "v01's script runs", agent, || change(&bench, "v01"));
    eventually("the service is up again", || service(&bench).is_some());
    says(&bench, &["sync"], 0, "");
    assert_eq!(last(&bench), format!("{bad} {good}"), "{:#?}", runs(&bench));
    assert_eq!((service(&bench).as_deref(), &*deployed(&bench)), (Some("one\n"), "v01"));
    settled(&bench);
    // The agent is killed after two failures, and no agent runs while the registry rolls back.
    for version in ["v03", "v04"] {
        bench.bump(version, &format!("bad {version}\n"));
        says(&bench, &["sync"], 1, "exit status 3");
    }
    let bad = offered(&bench);
    drop(agent);
    change(&bench, "v01");
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(last(&bench), format!("{bad} {good}"));
    assert_eq!(service(&bench).as_deref(), Some("one\n"));
    settled(&bench);
}

#[test]
fn script_runs_again_if_only_its_record_was_written() {
    let bench = Bench::new();
    let good = begun(&bench);
    bench.bump("v02", "bad\n");
    let bad = offered(&bench);
    assert_eq!(bench.once(&[]).0, Some(1));
    change(&bench, "v01");
    assert_eq!(bench.once(&[]).0, Some(0));
    // Imitates the record that exists right before a script starts, and records that a power cut
    // may leave.
    let note = |id: &str| format!("{{\"id\":\"{id}\",\"since\":\"2026-11-29T00:00:00Z\"}}");
    for (note, old) in [(note(&bad), &*bad), (note(&good), ""), (String::new(), "")] {
        fs::write(bench.path("a1/unsettled.json"), note).unwrap();
        assert_eq!(bench.once(&[]).0, Some(0));
        assert_eq!(last(&bench), format!("{old} {good}"));
        settled(&bench);
    }
    let before = runs(&bench).len();
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(runs(&bench).len(), before);
}

#[test]
fn script_that_cannot_start_leaves_the_server_settled() {
    let bench = Bench::new();
    begun(&bench);
    bench.bump("v02", "two\n");
    let (code, _) = bench.once(&["-script", "./none.sh"]);
    assert_eq!(code, Some(1));
    settled(&bench);
    let (code, log) = bench.once(&["-script-env-file", "none"]);
    assert_eq!(code, Some(1));
    assert!(log.contains("cannot read -script-env-file none: No such file"), "{log}");
    settled(&bench);
    change(&bench, "v01");
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(runs(&bench).len(), 1);
}

#[test]
fn failed_root_and_its_layers_are_kept() {
    let bench = Bench::new();
    begun(&bench);
    bench.bump("v02", "bad\n");
    assert_eq!(bench.once(&[]).0, Some(1));
    let bad = offered(&bench);
    says(&bench, &["gc", "-cleanold"], 0, "to be deployed");
    assert!(bench.path("a1/unpacked").join(&bad).is_dir());
    change(&bench, "v01");
    assert_eq!(bench.once(&[]).0, Some(0));
    says(&bench, &["gc", "-cleanold"], 0, "no rule keeps this root");
    assert!(!bench.path("a1/unpacked").join(&bad).exists());
}

#[test]
fn script_does_not_run_if_its_record_cannot_be_written() {
    // A directory in the place of the record makes the write fail, as a full disk would.
    let bench = Bench::new();
    begun(&bench);
    fs::create_dir(bench.path("a1/unsettled.json")).unwrap();
    bench.bump("v02", "two\n");
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("unsettled.json"), "{log}");
    assert_eq!(runs(&bench).len(), 1, "{log}");
    fs::remove_dir(bench.path("a1/unsettled.json")).unwrap();
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(
        Path::new(&last(&bench)),
        Path::new(&format!("{} {}", first(&bench), offered(&bench)))
    );
}

/// The id of the configuration in the script's first run.
fn first(bench: &Bench) -> Digest {
    runs(bench)[0].trim().parse().unwrap()
}

#[test]
fn clock_jumps_cause_no_delays_and_remove_no_needed_root() {
    let bench = Bench::new();
    begun(&bench);
    // The test imitates a clock that was set back, so all recorded times are in the future.
    let far = || {
        for dir in ["a1/roots", "a1/unpacked", "a1/layers"] {
            let mut touch = Command::new("find");
            touch.arg(bench.path(dir)).args([
                "-exec",
                "touch",
                "-h",
                "-d",
                "2200-01-01",
                "{}",
                "+",
            ]);
            assert!(touch.status().unwrap().success());
        }
    };
    far();
    bench.bump("v02", "bad\n");
    let bad = offered(&bench);
    assert_eq!(bench.once(&[]).0, Some(1));
    let left = fs::read_to_string(bench.path("a1/unsettled.json")).unwrap();
    let year = left.split_once("\"since\": \"").unwrap().1.get(..4).unwrap();
    let later = left.replace(&format!("\"{year}-"), "\"9026-");
    let later = later.replace("null", "\"9000-01-01T00:00:00Z\"");
    fs::write(bench.path("a1/unsettled.json"), later).unwrap();
    says(&bench, &["status"], 0, "script failed at 90");
    let agent = Agent::start(&bench, &[]);
    eventually("the agent tries again", || runs(&bench).len() == 3);
    eventually("the agent has seen the script fail", || status(&bench)["failures"] == 2);
    says(&bench, &["sync"], 1, "exit status 3");
    far();
    for (version, text) in [("v03", "three\n"), ("v04", "four\n")] {
        bench.bump(version, text);
        says(&bench, &["sync"], 0, "switched to");
    }
    let current = offered(&bench);
    let roots: Vec<String> = fs::read_dir(bench.path("a1/roots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(roots.len() == 2 && roots.contains(&current) && !roots.contains(&bad), "{roots:?}");
    says(&bench, &["gc"], 0, "previous");
    says(&bench, &["rollback"], 0, "rolled back");
    assert_eq!(service(&bench).as_deref(), Some("three\n"));
    agent.stop();
}
