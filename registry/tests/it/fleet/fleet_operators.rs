//! Tests what operators do to the fleet: labels, holds, retries, freezes and events.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use super::watcher::Watch;
use super::{change, document, fails, start};
use crate::rig::{Rig, wait_until};

#[test]
fn operators_label_hold_release_and_retire_hosts() {
    let rig = start(&[]);
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = web.offer();
    web.healthy(1, &offer);
    rig.ok("host label web-01 group=canary zone=east");
    rig.ok("host label web-01 zone=");
    let list = rig.ok("host list");
    assert!(list.contains("group=canary") && !list.contains("zone"), "{list}");
    assert_eq!(document(&rig, "fleet -name web -group canary -json")["hosts"][0]["host"], "web-01");
    assert!(
        document(&rig, "fleet -name web -group x -json")["hosts"].as_array().unwrap().is_empty()
    );
    rig.ok("host hold web-01 -m 'new disk'");
    assert_eq!(web.offer()["held"], "new disk");
    change(&rig, "v2");
    let held = web.offer();
    assert_eq!((&held["held"], held.get("document")), (&json!("new disk"), None));
    // A held host does not count.
    assert!(rig.ok("wait -name web -timeout 1s").contains("no host counts, 1 held (not counted)"));
    // While a host is held, an agent that only polls from this host still gets the state that the
    // host runs.
    let poll = |rig: &Rig| {
        rig.sftp("srv", "deploy-agent", "get configs/web.json polled.json");
        std::fs::read_to_string(rig.path("polled.json")).unwrap()
    };
    assert!(poll(&rig).contains("\"v1\""), "{}", poll(&rig));
    assert!(rig.ok("gc").contains("0 files") || !rig.ok("gc -n").contains("code v1"));
    rig.ok("host release web-01");
    assert_eq!(web.offer().get("held"), None);
    assert!(poll(&rig).contains("\"v2\""));
    assert!(fails(&rig, "host release web-01", 5).contains("is not held"));
    fails(&rig, "host hold nobody -m x", 5);
    fails(&rig, "wait -name web -timeout 1s", 7);
    rig.ok("host retire web-01");
    assert!(rig.ok("wait -name web -timeout 1s").contains("no host has reported"));
    assert!(!rig.ok("host list").contains("web-01"));
    assert!(rig.ok("host list -retired").contains("web-01"));
    // A host that reports under the name of a retired host is a new host.
    web.healthy(7, &offer);
    assert!(rig.ok("host list").contains("web-01"));
    let audit = rig.ok("audit");
    for verb in ["-action=hold", "-action=label", "-action=release", "-action=retire"] {
        assert!(audit.contains(verb), "{verb}: {audit}");
    }
    assert!(!audit.contains("-action=list"));
}

#[test]
fn retry_reaches_the_agents_that_failed() {
    let rig = start(&[]);
    let mut good = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let mut bad = Watch::begin(&rig, "srv", "web", "web-02", "a2");
    let offer = good.offer();
    good.healthy(1, &offer);
    bad.offer();
    fails(&rig, "retry -failed", 5);
    bad.report(&json!({ "seq": 1, "phase": "rolled_back", "wants": offer["id"] }));
    assert_eq!(rig.ok("retry -failed"), "web-02: web\n");
    assert_eq!(bad.offer()["retries"], 1);
    rig.ok("retry -host web-02 -name web");
    assert_eq!(bad.offer()["retries"], 2);
    fails(&rig, "retry -host web-03", 5);
    drop(bad);
    assert_eq!(Watch::begin(&rig, "srv", "web", "web-02", "a2").offer()["retries"], 2);
}

#[test]
fn frozen_configuration_changes_only_with_override() {
    let rig = start(&[]);
    rig.ok("freeze -name web -m 'Black Friday' -for 2h");
    for line in [
        "changeconf -name web -component code -version v2",
        "bumpconf -name web -component code",
        "addconf -name web -layer code:v3 -replace",
        "delconf -name web -force",
    ] {
        let told = fails(&rig, line, 6);
        assert!(told.contains("Black Friday") && told.contains("-override"), "{line}: {told}");
    }
    rig.ok("changeconf -name web -component code -version v2 -override");
    fails(&rig, "rollback -name web", 6);
    rig.ok("rollback -name web -override");
    assert!(rig.ok("audit").contains("-override"));
    rig.ok("freeze -name web -off");
    change(&rig, "v3");
    fails(&rig, "freeze -name web -off", 5);
    fails(&rig, "freeze -name nothing -m x", 5);
    rig.ok("freeze -name web -m short -for 1ms");
    change(&rig, "v2");
}

#[test]
fn events_reach_a_follower_and_the_program_of_on_event() {
    let place = tempfile::tempdir().unwrap();
    let (hook, told) = (place.path().join("hook"), place.path().join("told"));
    std::fs::write(&hook, "#!/bin/sh\ncat >>\"$(dirname \"$0\")/told\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, mode).unwrap();
    let rig = start(&["-on-event", hook.to_str().unwrap()]);
    let mut follow = rig.client("ssh", "op");
    follow.args(["me@127.0.0.1", "events -since 0 -follow -json"]).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!((&next()["kind"], rig.ok("events").lines().count()), (&json!("changed"), 1));
    assert!(rig.wait_for_log("events -since 0 -follow -json").contains("command ok"));
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = web.offer();
    web.healthy(1, &offer);
    assert_eq!(next()["kind"], "host_added");
    let healthy = next();
    assert_eq!((&healthy["kind"], &healthy["host"]), (&json!("healthy"), &json!("web-01")));
    wait_until("the program has all events", || {
        std::fs::read_to_string(&told).is_ok_and(|told| told.lines().count() == 3)
    });
    let _ = follow.kill();
    let _ = follow.wait();
}
