//! Tests rollouts over real connections. Stock ssh plays the role of the agents.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::watcher::Watch;
use crate::fleet::{agent, change, document, fails, start};
use crate::rig::{Rig, both, wait_until};

/// A fleet of hosts that run the first version.
fn fleet(rig: &Rig, hosts: usize) -> Vec<Watch> {
    let name = |n: usize| format!("web-{n:02}");
    let mut watches: Vec<Watch> =
        (0..hosts).map(|n| Watch::begin(rig, "srv", "web", &name(n), &format!("a{n}"))).collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    watches
}

fn version(offer: &Value) -> String {
    let document: Value = serde_json::from_str(offer["document"].as_str().unwrap()).unwrap();
    document["Layers"][0]["Version"].as_str().unwrap().to_owned()
}

#[track_caller]
fn is_offered_nothing(watch: &Watch) {
    let line = watch.lines.recv_timeout(Duration::from_millis(300));
    assert!(line.is_err(), "the host is offered {line:?}");
}

fn status(rig: &Rig) -> Value {
    document(rig, "rollout status -name web -json")
}

#[track_caller]
fn has_status(rig: &Rig, want: &str) {
    wait_until(want, || status(rig)["status"] == want);
}

fn failed(watch: &mut Watch, seq: u64, offer: &Value) {
    let report = json!({
        "seq": seq, "revision": offer["revision"], "attempt": seq, "phase": "failed",
        "wants": offer["id"], "reason": "script", "message": "no such table", "exit_code": 3,
    });
    watch.report(&report);
}

#[test]
fn waves_open_one_after_another_and_success_makes_the_target_current() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 4);
    rig.ok("host label web-03 group=canary");
    let told = rig.ok("rollout start -name web -layer code:v2 -waves canary,2,100% -soak 300ms");
    assert!(told.contains("rollout 1: state 2 over 1; waves of canary, 2, 100%"), "{told}");
    assert!(told.contains("rollout abort -name=\"web\""), "{told}");
    let offer = hosts[3].offer();
    assert_eq!(version(&offer), "v2");
    for host in &hosts[..3] {
        is_offered_nothing(host);
    }
    assert!(rig.ok("showconf -name web").contains("v1"), "the base is not current");
    hosts[3].healthy(2, &offer);
    for host in &mut hosts[..2] {
        let offer = host.offer();
        assert_eq!(version(&offer), "v2");
        host.healthy(2, &offer);
    }
    let offer = hosts[2].offer();
    hosts[2].healthy(2, &offer);
    has_status(&rig, "succeeded");
    assert!(rig.ok("showconf -name web").contains("v2"));
    // The hosts have already confirmed the state, so `wait` needs no new report.
    for host in &mut hosts {
        assert_eq!(version(&host.offer()), "v2");
    }
    rig.ok("wait -name web -state 2 -timeout 5s");
    let audit = rig.ok("audit");
    for text in ["wave 1 opens with 1 host", "wave 3 opens with 1 host", "succeeds"] {
        assert!(audit.contains(text), "{text}: {audit}");
    }
    let waves = status(&rig)["waves"].clone();
    let sizes: Vec<&Value> = waves.as_array().unwrap().iter().map(|wave| &wave["hosts"]).collect();
    assert_eq!(sizes, [1, 2, 1]);
    assert!(rig.ok("events").contains("rollout_succeeded"));
}

#[test]
fn failures_halt_a_rollout_and_an_abort_brings_its_hosts_back() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 5);
    rig.ok("rollout start -name web -layer code:v2 -waves 2,100% -soak 1ms");
    for host in &mut hosts[..2] {
        let offer = host.offer();
        failed(host, 2, &offer);
    }
    has_status(&rig, "halted");
    let told = fails(&rig, "wait -name web -timeout 5s", 1);
    assert!(told.contains("web-00") && told.contains("web-01"), "{told}");
    let text = rig.ok("rollout status -name web");
    assert!(text.contains("halted (2 hosts failed: "), "{text}");
    assert!(text.contains("; at most 1 may fail)"), "{text}");
    assert!(text.contains("no such table"), "{text}");
    for host in &hosts[2..] {
        is_offered_nothing(host);
    }
    let told = fails(&rig, "rollout resume -name web", 6);
    assert!(told.contains("-max-failed 2 or more"), "{told}");
    assert!(rig.ok("rollout abort -name web").contains("aborted"));
    for host in &mut hosts {
        let offer = host.offer();
        assert_eq!(version(&offer), "v1");
        host.healthy(3, &offer);
    }
    rig.ok("wait -name web -timeout 5s");
    fails(&rig, "rollout abort -name web", 6);
    // A wait for the target fails, because the rollout of the target was aborted.
    fails(&rig, "wait -name web -state 2 -timeout 5s", 1);
    // A rollback skips states that were never current.
    change(&rig, "v3");
    rig.ok("rollback -name web");
    assert!(rig.ok("showconf -name web").contains("v1"));
}

#[test]
fn host_that_failed_in_the_last_rollout_counts_again_in_the_next() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 3);
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 1ms -max-failed 0");
    let offer = hosts[0].offer();
    failed(&mut hosts[0], 2, &offer);
    has_status(&rig, "halted");
    // The host has returned to the base, but its last report is still about the first target.
    rig.ok(
        "rollout start -name web -layer code:v3 -waves 1,100% -soak 1ms -max-failed 0 -supersede",
    );
    let mut offer = hosts[0].offer();
    while version(&offer) != "v3" {
        offer = hosts[0].offer();
    }
    failed(&mut hosts[0], 3, &offer);
    has_status(&rig, "halted");
    for host in &hosts[1..] {
        while let Ok(line) = host.lines.recv_timeout(Duration::from_millis(300)) {
            assert!(!line.to_string().contains("v3"), "the bad version is offered: {line}");
        }
    }
}

#[test]
fn retry_gives_a_failed_host_another_try_in_the_rollout() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 2);
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 1ms -max-failed 0");
    let offer = hosts[0].offer();
    failed(&mut hosts[0], 2, &offer);
    has_status(&rig, "halted");
    // The rollout uses this version, so nobody can delete the version.
    fails(&rig, "delver -name code -version v2 -force", 6);
    rig.ok("retry -host web-00");
    let again = hosts[0].offer();
    assert_eq!((version(&again), &again["retries"]), ("v2".to_owned(), &json!(1)));
    rig.ok("rollout resume web -max-absent 50%");
    hosts[0].healthy(3, &again);
    let offer = hosts[1].offer();
    assert_eq!(version(&offer), "v2");
    hosts[1].healthy(2, &offer);
    has_status(&rig, "succeeded");
}

#[test]
fn configuration_under_a_rollout_changes_only_with_supersede() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 2);
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 1h");
    let offer = hosts[0].offer();
    hosts[0].healthy(2, &offer);
    for line in [
        "changeconf -name web -component code -version v3",
        "addconf -name web -layer code:v3 -replace",
        "rollout start -name web -layer code:v3",
    ] {
        let told = fails(&rig, line, 6);
        assert!(
            told.contains("rollout 1, which is running") && told.contains("-supersede"),
            "{told}"
        );
    }
    rig.ok("changeconf -name web -component code -version v3 -supersede");
    for host in &mut hosts {
        // The registry may offer the base to the first host for a moment.
        while version(&host.offer()) != "v3" {}
    }
    assert_eq!(status(&rig)["status"], "superseded");
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 1h");
    rig.ok("delconf -name web -force");
    assert!(rig.ok("rollout list").contains("superseded"));
}

#[test]
fn host_of_a_wave_keeps_its_target_when_the_registry_is_killed() {
    let mut rig = start(&[]);
    let hosts = fleet(&rig, 2);
    rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -soak 400ms");
    let offer = hosts[0].offer();
    drop(hosts);
    rig.stop("-KILL");
    rig.run();
    let mut first = Watch::begin(&rig, "srv", "web", "web-00", "a0");
    let again = first.offer();
    assert_eq!((version(&again), &again["revision"]), ("v2".to_owned(), &offer["revision"]));
    let mut second = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    assert_eq!(version(&second.offer()), "v1");
    first.healthy(2, &again);
    let offer = second.offer();
    assert_eq!(version(&offer), "v2");
    second.healthy(2, &offer);
    has_status(&rig, "succeeded");
}

#[test]
fn operators_pause_resume_skip_the_soak_and_mark_hosts() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 3);
    rig.ok("rollout start -name web -layer code:v2 -waves 1,1,100% -soak 1h");
    let told = rig.ok("rollout pause web -m 'looking at the logs'");
    assert!(told.contains("paused (looking at the logs)"), "{told}");
    let offer = hosts[0].offer();
    hosts[0].healthy(2, &offer);
    fails(&rig, "rollout skip-soak web", 6);
    rig.ok("rollout resume web");
    wait_until("the soak begins", || status(&rig)["soak_ends"] != Value::Null);
    rig.ok("rollout skip-soak web");
    let offer = hosts[1].offer();
    assert_eq!(version(&offer), "v2");
    rig.ok("rollout mark web-01 failed -name web");
    has_status(&rig, "halted");
    rig.ok("rollout mark web-01 good -name web");
    rig.ok("rollout resume web");
    wait_until("the soak begins", || status(&rig)["soak_ends"] != Value::Null);
    rig.ok("rollout skip-soak web");
    hosts[2].offer();
    fails(&rig, "rollout mark web-09 good -name web", 5);
}

#[test]
fn policy_of_a_configuration_makes_every_change_a_rollout() {
    let rig = start(&[]);
    let mut hosts = fleet(&rig, 2);
    rig.ok("rollout policy set careful -waves 1,100% -soak 50ms -max-failed 0");
    rig.ok("rollout policy use careful -name web");
    let list = rig.ok("rollout policy list");
    assert!(list.contains("careful") && list.contains("used by web"), "{list}");
    let told = fails(&rig, "rollout policy delete careful", 6);
    assert!(told.contains("\"web\" uses"), "{told}");
    let told = rig.ok("bumpconf -name web -component code");
    assert!(told.contains("waves of 1, 100%"), "{told}");
    for host in &mut hosts {
        let offer = host.offer();
        assert_eq!(version(&offer), "v3");
        host.healthy(2, &offer);
    }
    has_status(&rig, "succeeded");
    let told = rig.ok("changeconf -name web -component code -version v1 -at-once");
    assert!(!told.contains("rollout"), "{told}");
    rig.ok("rollout policy use -name web");
    rig.ok("rollout policy delete careful");
    fails(&rig, "changeconf -name web -component code -version v2 -policy careful", 5);
    fails(&rig, "changeconf -name web -component code -version v2 -waves 100%,1", 2);
}

#[test]
fn plan_shows_the_waves_and_changes_nothing() {
    let rig = start(&[]);
    let hosts = fleet(&rig, 3);
    rig.ok("host hold web-02 -m 'new disk'");
    let plan = rig.ok("rollout start -name web -layer code:v2 -waves 1,100% -n");
    assert!(plan.contains("web-00") && plan.contains("1 held by an operator: web-02"), "{plan}");
    fails(&rig, "rollout status -name web", 5);
    for host in &hosts[..2] {
        is_offered_nothing(host);
    }
}

/// An agent of the Go tool only polls. Its script may report with stock ssh.
#[test]
fn agent_that_only_polls_takes_part_in_waves() {
    let rig = start(&[]);
    let polled = || {
        let got = rig.sftp("srv", "deploy-agent", "get configs/web.json polled.json");
        assert!(got.status.success(), "{}", both(&got));
        let text = std::fs::read_to_string(rig.path("polled.json")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let version = document["Layers"][0]["Version"].as_str().unwrap().to_owned();
        (version, document["Hash"].as_str().unwrap().to_owned())
    };
    assert_eq!(polled().0, "v1");
    rig.ok("rollout start -name web -layer code:v2 -waves @127.0.0.1,100% -soak 100ms");
    let (version, id) = polled();
    assert_eq!(version, "v2");
    assert_eq!(status(&rig)["hosts"][0]["host"], "127.0.0.1");
    let line = format!("report -name web -id {id} -code 0");
    assert!(agent(&rig, &line).status.success());
    has_status(&rig, "succeeded");
    rig.ok("wait -name web -timeout 1s");
    assert_eq!(document(&rig, "fleet -name web -json")["hosts"][0]["connected"], true);
    // `-allow-unknown` admits hosts that only poll. Such a host counts as good as soon as the host
    // has fetched the target.
    rig.ok("rollout start -name web -layer code:v3 -allow-unknown -waves 100% -soak 100ms");
    assert_eq!(polled().0, "v3");
    rig.ok("rollout abort -name web");
    assert_eq!(polled().0, "v2");
}

/// Windows in UTC that are always open, or that are open for only two minutes a week.
fn windows(is_open: bool) -> &'static str {
    if is_open { "00:00-24:00 UTC" } else { "Mon 00:00-00:01 UTC; Thu 00:00-00:01 UTC" }
}

#[test]
fn hosts_only_prepare_while_the_windows_of_their_group_are_closed() {
    let rig = start(&[]);
    let hosts = fleet(&rig, 2);
    let set = |is_open: bool| {
        rig.ok(&format!("window set db -times '{}'", windows(is_open)));
    };
    set(false);
    rig.ok("host label web-00 group=db");
    assert_eq!(hosts[0].offer()["staged_only"], true);
    change(&rig, "v2");
    let offer = hosts[0].offer();
    assert_eq!((version(&offer), &offer["staged_only"]), ("v2".to_owned(), &json!(true)));
    assert_eq!(hosts[1].offer().get("staged_only"), None);
    let list = rig.ok("window list");
    assert!(list.contains("db") && list.contains("closed"), "{list}");
    set(true);
    let offer = hosts[0].offer();
    assert_eq!((version(&offer), offer.get("staged_only")), ("v2".to_owned(), None));
    set(false);
    assert_eq!(hosts[0].offer()["staged_only"], true);
    rig.ok("window delete db");
    assert_eq!(hosts[0].offer().get("staged_only"), None);
    fails(&rig, "window delete db", 5);
    fails(&rig, "window set db -times 'always UTC'", 2);
}

/// After a restart, the registry does not know yet which agents poll.
#[test]
fn first_wave_after_a_restart_waits_for_agents_that_only_poll() {
    let mut rig = start(&[]);
    rig.sftp("srv", "deploy-agent", "get configs/web.json polled.json");
    rig.stop("-KILL");
    rig.run();
    rig.ok("rollout start -name web -layer code:v2 -allow-unknown -waves 1,100% -soak 1ms");
    std::thread::sleep(Duration::from_secs(1));
    let now = status(&rig);
    assert_eq!((&now["status"], &now["wave"]), (&json!("running"), &json!(0)), "{now:#}");
    assert!(
        rig.ok("showconf -name web").contains("v1"),
        "the change reached all hosts without waves"
    );
}
