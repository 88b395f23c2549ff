//! Tests gates and rollbacks that a kill, a signal or another configuration interrupts.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use deploy_testing::eventually;

use crate::bench::{Bench, deployed, says, terminate};
use crate::health::gated::{
    Gated, PATIENT, QUICK, SLOW, active, bench, check, events, is_gone, named, once, reason,
    usual_script,
};

/// Starts an agent, and waits until a check of the second configuration has failed. The gate stays
/// open, because its deadline is 10 minutes away.
fn in_the_gate(bench: &Bench) -> Gated<'_> {
    check(bench, "grep -q one active");
    assert_eq!(once(bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    let agent = Gated::start(bench, "cmd:./check", &[&SLOW[..], &["-v"]].concat());
    agent.logs(1, "health_probe_failed");
    assert_eq!((deployed(bench).as_str(), active(bench).as_str()), ("v02", "two"));
    agent
}

#[test]
fn killed_gate_runs_again_after_each_restart_until_it_has_decided() {
    let bench = bench();
    in_the_gate(&bench).kill();
    assert!(bench.path("a1/checking.json").exists());
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(
        (&status["health"]["result"], &status["health"]["reason"]),
        (&"checking".into(), &().into())
    );
    // The test kills the next agent in its gate, too.
    let agent = Gated::start(&bench, "cmd:./check", &SLOW);
    agent.logs(2, "health_started");
    agent.kill();
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, named(&log, "health_started").len()), (Some(1), 1), "{log:#?}");
    assert!(reason(&log).starts_with("health cmd ./check: exit status 1, "));
    assert_eq!(
        (deployed(&bench).as_str(), active(&bench).as_str(), bench.runs()),
        ("v01", "one", 3)
    );
}

#[test]
fn killed_gate_can_succeed_after_the_restart_without_another_run_of_the_script() {
    let bench = bench();
    in_the_gate(&bench).kill();
    check(&bench, "exit 0");
    let agent = Gated::start(&bench, "cmd:./check", &SLOW);
    says(&bench, &["sync"], 0, "up to date");
    let log = events(&bench);
    assert_eq!((bench.runs(), named(&log, "health_started").len()), (2, 2));
    assert_eq!(named(&log, "healthy").len(), 1);
    assert!(!bench.path("a1/checking.json").exists());
    says(&bench, &["sync"], 0, "up to date");
    assert_eq!(named(&events(&bench), "health_started").len(), 2);
    agent.stop();
}

#[test]
fn killed_gate_is_completed_without_the_registry() {
    let mut bench = bench();
    in_the_gate(&bench).kill();
    assert_eq!(terminate(&mut bench.registry.process), Some(0));
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str()), (Some(1), "v01"), "{log:#?}");
    assert_eq!((active(&bench).as_str(), named(&log, "rolled_back").len()), ("one", 1));
    // The gate is now complete. The next agent fails as usual, because it cannot reach the
    // registry.
    assert_eq!(once(&bench, "cmd:./check", &QUICK).0, Some(10));
}

#[test]
fn killed_gate_that_succeeds_without_the_registry_does_not_run_again() {
    let mut bench = bench();
    in_the_gate(&bench).kill();
    assert_eq!(terminate(&mut bench.registry.process), Some(0));
    check(&bench, "exit 0");
    for gates in [1, 0] {
        let (code, log) = once(&bench, "cmd:./check", &QUICK);
        assert_eq!((code, named(&log, "healthy").len()), (Some(10), gates), "{log:#?}");
    }
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v02", 2));
}

#[test]
fn newer_configuration_after_a_kill_rolls_back_to_the_last_healthy_configuration() {
    let bench = bench();
    in_the_gate(&bench).kill();
    bench.bump("v03", "three\n");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!(code, Some(1), "{log:#?}");
    // The second configuration was never healthy, so the agent does not return to it.
    assert_eq!(
        (deployed(&bench).as_str(), active(&bench).as_str(), bench.runs()),
        ("v01", "one", 4)
    );
    assert_eq!((named(&log, "health_started").len(), named(&log, "rolled_back").len()), (1, 1));
}

#[test]
fn status_works_during_a_gate_and_a_signal_ends_the_gate_promptly() {
    let bench = bench();
    let agent = in_the_gate(&bench);
    says(&bench, &["status"], 0, "   checking   since ");
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["health"]["id"], status["configuration"]["id"]);
    // When the agent ends, a program that runs as a check ends, too.
    check(&bench, "sleep 600 &\necho $! >pid\nwait");
    eventually("the check hangs", || {
        fs::read_to_string(bench.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let began = Instant::now();
    agent.stop();
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    eventually("the process `sleep` has ended", || is_gone(&bench.path("pid")));
    assert!(bench.path("a1/checking.json").exists());
    check(&bench, "exit 1");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str()), (Some(1), "v01"), "{log:#?}");
}

/// A request from a subcommand waits until the gate has ended.
#[test]
fn sync_waits_for_the_gate() {
    let bench = bench();
    let agent = in_the_gate(&bench);
    let sync = || {
        let mut sync = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
        sync.args(["sync", "-dir", "a1"]).current_dir(bench.temp.path()).output().unwrap()
    };
    let output = std::thread::scope(|scope| {
        let asking = scope.spawn(sync);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!asking.is_finished());
        check(&bench, "exit 0");
        asking.join().unwrap()
    });
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    agent.stop();
}

/// A kill does not change the decision to roll back. The next agent does not run the gate again.
#[test]
fn killed_rollback_is_completed_without_another_gate() {
    let bench = bench();
    check(&bench, "grep -q one active");
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    // This script waits when it runs for the rollback.
    bench.script(
        "#!/bin/sh\necho \"$OLDID $NEWID\" >>runs\ncp -f \"$NEWROOT/conf\" active\n\
         if grep -q one active; then mkfifo go && read line <go; fi\nexit 0\n",
    );
    let agent = Gated::start(&bench, "cmd:./check", &QUICK);
    eventually("the script waits", || {
        bench.path("go").exists() && bench.path("a1/script.json").exists()
    });
    agent.kill();
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v02", 3));
    assert!(bench.path("a1/hold.json").exists());
    fs::write(bench.path("go"), "done\n").unwrap();
    usual_script(&bench);
    // If the next agent ran the gate again, this check would succeed.
    check(&bench, "exit 0");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str(), bench.runs()), (Some(1), "v01", 4), "{log:#?}");
    assert_eq!(
        (named(&log, "rollback_resumed").len(), named(&log, "health_started").len()),
        (1, 0)
    );
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["health"]["action"], "rolled_back");
    assert!(status["hold"]["reason"].as_str().unwrap().starts_with("health cmd ./check: "));
    assert!(!bench.path("a1/checking.json").exists());
}
