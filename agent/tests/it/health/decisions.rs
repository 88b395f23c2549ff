//! Tests the agent's actions after a gate has failed: holds, failures of first deploys, and failed
//! rollbacks.

use std::fs;
use std::time::Duration;

use deploy_testing::eventually;

use crate::bench::{deployed, says};
use crate::health::gated::{
    Gated, PATIENT, QUICK, active, bench, check, events, named, once, reason, usual_script,
};

/// A check that succeeds only for the first configuration, and for configurations with `good` in
/// `conf`.
const ONE_IS_HEALTHY: &str = "grep -q -e one -e good active";

#[test]
fn rejected_configuration_is_held_until_the_registry_changes_or_a_release() {
    let bench = bench();
    check(&bench, ONE_IS_HEALTHY);
    let agent = Gated::start(&bench, "cmd:./check", &QUICK);
    says(&bench, &["sync"], 0, "");
    let v1 = bench.state().unwrap().id().to_string();
    bench.bump("v02", "two\n");
    let failed = says(&bench, &["sync", "-json"], 1, "").json();
    assert_eq!(failed["outcome"], "rolled_back");
    let why = failed["reason"].as_str().unwrap();
    assert!(why.starts_with("health cmd ./check: exit status 1, "), "{why}");
    assert!(why.contains(&format!("on hold after a rollback to {v1}")), "{why}");
    assert_eq!(
        (deployed(&bench).as_str(), active(&bench).as_str(), bench.runs()),
        ("v01", "one", 3)
    );
    for _ in 0..3 {
        says(&bench, &["sync"], 1, "not deployed: ");
    }
    assert_eq!((bench.runs(), named(&events(&bench), "health_started").len()), (3, 2));
    agent.stop();
    // The next agent also keeps the hold.
    let agent = Gated::start(&bench, "cmd:./check", &QUICK);
    says(&bench, &["sync"], 1, "health cmd ./check: exit status 1, ");
    assert_eq!(bench.runs(), 3);
    // After a release, the agent tries the configuration once more.
    says(&bench, &["rollback", "-release"], 0, "released");
    agent.logs(2, "health_failed");
    says(&bench, &["sync"], 1, "on hold after a rollback");
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v01", 5));
    bench.bump("v03", "good\n");
    says(&bench, &["sync"], 0, "switched to ");
    assert_eq!((deployed(&bench).as_str(), active(&bench).as_str()), ("v03", "good"));
    assert!(!bench.path("a1/hold.json").exists());
    // An operator's rollback has no health gate.
    check(&bench, "exit 1");
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(named(&events(&bench), "health_started").len(), 4);
    agent.stop();
}

#[test]
fn failed_first_deploy_is_kept() {
    let bench = bench();
    check(&bench, "grep -q good active");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str(), bench.runs()), (Some(1), "v01", 1), "{log:#?}");
    assert!(reason(&log).starts_with("health cmd ./check: exit status 1, "));
    assert_eq!(named(&log, "health_failed")[0]["action"], "kept");
    assert_eq!(named(&log, "rolled_back").len(), 0);
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["health"]["action"], "kept");
    // Neither the script nor the gate runs again.
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, bench.runs()), (Some(1), 1), "{log:#?}");
    assert_eq!((named(&log, "health_started").len(), named(&log, "held").len()), (0, 1));
    let told = named(&log, "held")[0]["message"].as_str().unwrap();
    assert!(told.contains("not healthy: health cmd ./check: exit status 1, "), "{told}");
    // The next configuration fails, too. The agent does not return to the first configuration,
    // because that configuration was never healthy.
    bench.bump("v02", "two\n");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str(), bench.runs()), (Some(1), "v02", 2), "{log:#?}");
    assert_eq!(named(&log, "health_failed")[0]["action"], "kept");
    bench.bump("v03", "good\n");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str(), bench.runs()), (Some(0), "v03", 3), "{log:#?}");
    assert!(!bench.path("a1/checking.json").exists());
}

#[test]
fn on_failure_hold_keeps_the_configuration_and_a_sync_checks_again() {
    let bench = bench();
    check(&bench, ONE_IS_HEALTHY);
    let agent =
        Gated::start(&bench, "cmd:./check", &[&QUICK[..], &["-on-failure", "hold"]].concat());
    says(&bench, &["sync"], 0, "");
    bench.bump("v02", "two\n");
    let failed = says(&bench, &["sync", "-json"], 1, "").json();
    assert_eq!(failed["outcome"], "rejected");
    says(&bench, &["status"], 0, "exit status 1, ");
    says(&bench, &["status"], 0, "; kept   since ");
    assert_eq!(
        (deployed(&bench).as_str(), active(&bench).as_str(), bench.runs()),
        ("v02", "two", 2)
    );
    // Somebody may have repaired the cause, so a sync runs the gate again, but not the script.
    let again = says(&bench, &["sync"], 1, "not healthy: ").out;
    assert!(again.contains("nothing is deployed until the registry's configuration changes"));
    assert_eq!((bench.runs(), named(&events(&bench), "health_started").len()), (2, 3));
    fs::write(bench.path("active"), "good\n").unwrap();
    says(&bench, &["sync"], 0, "up to date");
    says(&bench, &["sync"], 0, "up to date");
    assert_eq!((bench.runs(), named(&events(&bench), "health_started").len()), (2, 4));
    // A kept configuration does not block later configurations. A rollback returns to the last
    // healthy configuration.
    bench.bump("v03", "three\n");
    says(&bench, &["sync"], 1, "not healthy: ");
    bench.bump("v04", "good\n");
    says(&bench, &["sync"], 0, "switched to ");
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(deployed(&bench), "v02");
    agent.stop();
}

/// A script that fails when it runs for a rollback to the first configuration.
const NO_WAY_BACK: &str = "#!/bin/sh\necho \"$OLDID $NEWID\" >>runs\n\
    cp -f \"$NEWROOT/conf\" active\ngrep -q one active && [ -n \"$OLDID\" ] && exit 9\nexit 0\n";

#[test]
fn failed_rollback_is_not_repeated() {
    let bench = bench();
    bench.script(NO_WAY_BACK);
    check(&bench, ONE_IS_HEALTHY);
    let agent = Gated::polling(&bench, "20ms", "cmd:./check", &QUICK);
    eventually("the first version is healthy", || !named(&events(&bench), "healthy").is_empty());
    bench.bump("v02", "two\n");
    agent.logs(1, "rollback_failed");
    agent.logs(1, "held");
    // During this pause, the agent polls many times.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((bench.runs(), deployed(&bench).as_str()), (3, "v02"), "{:#?}", events(&bench));
    let log = events(&bench);
    let failed = named(&log, "rollback_failed");
    assert_eq!((failed.len(), named(&log, "health_failed").len()), (1, 1));
    assert_eq!(failed[0]["level"], "error");
    assert!(failed[0]["message"].as_str().unwrap().contains("exit status 9"));
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["health"]["action"], "rollback_failed");
    assert!(status["health"]["rollback_error"].as_str().unwrap().contains("exit status 9"));
    assert!(status["unsettled"].is_object() && status["hold"].is_null(), "{status:#}");
    agent.stop();
    // The next agent does not repeat the rollback, either.
    let agent = Gated::polling(&bench, "20ms", "cmd:./check", &QUICK);
    agent.logs(2, "held");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(bench.runs(), 3);
    // A sync repeats the script, the gate and the rollback once.
    let failed = says(&bench, &["sync", "-json"], 1, "").json();
    assert_eq!(failed["outcome"], "rejected");
    assert!(failed["reason"].as_str().unwrap().contains("the rollback failed, too: "), "{failed}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((bench.runs(), named(&events(&bench), "rollback_failed").len()), (5, 2));
    // An operator can roll back by hand.
    usual_script(&bench);
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v01", 6));
    bench.bump("v03", "good\n");
    eventually("the fix is healthy", || named(&events(&bench), "healthy").len() == 2);
    assert_eq!(deployed(&bench), "v03");
    agent.stop();
}

#[test]
fn failed_rollback_does_not_block_the_fix() {
    let bench = bench();
    bench.script(NO_WAY_BACK);
    check(&bench, ONE_IS_HEALTHY);
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, named(&log, "rollback_failed").len()), (Some(1), 1), "{log:#?}");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, bench.runs()), (Some(1), 3), "{log:#?}");
    bench.bump("v03", "good\n");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str()), (Some(0), "v03"), "{log:#?}");
    assert_eq!(named(&log, "released").len(), 1, "{log:#?}");
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert!(status["unsettled"].is_null() && status["health"]["result"] == "healthy");
}

/// The previous root stays until the gate has decided, even with `-keep-roots 1`.
#[test]
fn rollback_needs_no_download_even_if_only_one_root_is_kept() {
    let bench = bench();
    check(&bench, ONE_IS_HEALTHY);
    let more = [&QUICK[..], &["-keep-roots", "1"]].concat();
    assert_eq!(once(&bench, "cmd:./check", &more).0, Some(0));
    bench.bump("v02", "two\n");
    let (code, log) = once(&bench, "cmd:./check", &more);
    assert_eq!((code, deployed(&bench).as_str()), (Some(1), "v01"), "{log:#?}");
    let ready = named(&log, "root_ready");
    assert_eq!((ready.len(), &ready[1]["reused"]), (2, &true.into()), "{log:#?}");
    assert_eq!(named(&log, "downloaded")[1]["layers"], 0);
    // After the decision, only one root is kept.
    assert_eq!(fs::read_dir(bench.path("a1/roots")).unwrap().count(), 1);
    bench.bump("v03", "good\n");
    assert_eq!(once(&bench, "cmd:./check", &more).0, Some(0));
    assert_eq!(fs::read_dir(bench.path("a1/roots")).unwrap().count(), 1);
}

/// The agent also checks a configuration that it deploys again. This configuration was healthy
/// before, so the agent does not roll back if the check fails.
#[test]
fn redeployed_configuration_is_checked_and_kept() {
    let bench = bench();
    check(&bench, "exit 0");
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    let root = bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string());
    fs::remove_dir_all(root).unwrap();
    check(&bench, "exit 1");
    let (code, log) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str(), bench.runs()), (Some(1), "v02", 3), "{log:#?}");
    assert_eq!(named(&log, "health_failed")[0]["action"], "kept");
    // Without checks, the agent rejects nothing.
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(0), "{log}");
    let status = says(&bench, &["status", "-json"], 0, "").json();
    assert!(status["health"].is_null() && !bench.path("a1/checking.json").exists());
}
