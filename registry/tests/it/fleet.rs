//! Tests watches and reports, and the verbs that show the fleet. Stock ssh plays the role of the
//! agents.

mod fleet_metrics;
mod fleet_operators;
mod report_faults;
mod wait_model;
pub mod watcher;

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Child, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_registry::fleet::watch_session::{WatchSession, Watcher};
use deploy_registry::registry::Settings;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bench::Bench;
use crate::rig::{Rig, both, wait_until};
use watcher::Watch;

/// Time limit for an answer of the registry on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Starts a registry with three versions of a component, and with the configuration `web`, which
/// has one layer.
pub fn start(flags: &[&str]) -> Rig {
    let rig = Rig::start_with(flags);
    for version in ["v1", "v2", "v3"] {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name web -layer code:v1");
    rig
}

pub fn change(rig: &Rig, version: &str) {
    rig.ok(&format!("changeconf -name web -component code -version {version}"));
}

pub fn fails(rig: &Rig, line: &str, code: i32) -> String {
    let output = rig.ssh("op", "me", &[line]);
    assert_eq!(output.status.code(), Some(code), "{line}: {}", both(&output));
    both(&output)
}

pub fn document(rig: &Rig, line: &str) -> Value {
    serde_json::from_str(&rig.ok(line)).unwrap()
}

/// Runs a command with the agent's key over stock ssh, as a script on a host does.
pub fn agent(rig: &Rig, line: &str) -> Output {
    rig.ssh("srv", "deploy-agent", &[line])
}

#[test]
fn change_is_pushed_and_its_confirmation_ends_a_wait() {
    let rig = start(&[]);
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let first = web.next();
    assert_eq!(first["last_seq"], 0);
    let offer = &first["offer"];
    let document: Value = serde_json::from_str(offer["document"].as_str().unwrap()).unwrap();
    assert_eq!(document["Layers"][0]["Version"], "v1");
    web.healthy(1, offer);
    assert!(rig.ok("wait -name web -timeout 1s").contains("deployed on 1 of 1 host"));
    let began = Instant::now();
    change(&rig, "v2");
    let next = web.offer();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(next["revision"].as_u64() > offer["revision"].as_u64());
    assert_ne!(next["id"], offer["id"]);
    assert!(fails(&rig, "wait -name web -timeout 1s", 7).contains("missing hosts: 1;"));
    // A report with the revision from before the change confirms nothing.
    let mut stale = next.clone();
    stale["revision"] = offer["revision"].clone();
    web.healthy(2, &stale);
    fails(&rig, "wait -name web -timeout 1s", 7);
    web.healthy(3, &next);
    rig.ok("wait -name web -state 2 -timeout 1s");
    assert!(fails(&rig, "wait -name web -state 1", 6).contains("now has another state, 2"));
    fails(&rig, "wait -name nothing", 5);
}

#[test]
fn failure_is_shown_with_reason_exit_code_and_output() {
    let rig = start(&[]);
    let mut watches: Vec<Watch> = (0..3)
        .map(|n| Watch::begin(&rig, "srv", "web", &format!("web-0{n}"), &format!("a{n}")))
        .collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    change(&rig, "v2");
    let bad = watches[1].offer();
    let report = json!({
        "seq": 2, "revision": bad["revision"], "attempt": 2, "phase": "failed",
        "wants": bad["id"], "reason": "script", "exit_code": 3,
        "message": "script \"./deploy.sh\" call failure: exit status 3",
        "output": "starting\nno such table: \u{1b}[31musers\n",
        "steps": [{ "phase": "fetched", "ms": 12 }, { "phase": "staged", "ms": 3 }],
    });
    watches[1].report(&report);
    let told = fails(&rig, "wait -name web -timeout 5s", 1);
    assert!(told.contains("1 failed (web-01)") && told.contains("why -host web-01"), "{told}");
    let why = rig.ok("why -host web-01");
    for part in ["exit code", "exit status 3", "no such table", "fetched 12 ms, staged 3 ms"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(!why.contains('\u{1b}'), "the output can control the terminal: {why}");
    let why = document(&rig, "why -host web-01 -name web -json");
    assert_eq!(why["configurations"][0]["attempts"][0]["exit_code"], 3);
    let fleet = document(&rig, "fleet -name web -json");
    let counts = &fleet["configurations"][0];
    assert_eq!((&counts["hosts"], &counts["failed"]), (&json!(3), &json!(1)), "{fleet}");
    let failed = document(&rig, "fleet -name web -phase failed -json");
    assert_eq!(failed["hosts"][0]["host"], "web-01");
    // The next wait succeeds, because both other hosts confirm the state.
    for (n, watch) in watches.iter_mut().enumerate().filter(|(n, _)| *n != 1) {
        let offer = watch.offer();
        watch.healthy(2 + n as u64, &offer);
    }
    rig.ok("wait -name web -min 60% -timeout 5s");
    let text = rig.ok("fleet -name web");
    assert!(text.contains("web-01") && text.contains("exit status 3"), "{text}");
    let file = rig.sftp("op", "me", "get /fleet/web.json fleet.json");
    assert!(file.status.success(), "{}", both(&file));
    let file: Value =
        serde_json::from_slice(&std::fs::read(rig.path("fleet.json")).unwrap()).unwrap();
    assert_eq!(file["configurations"][0]["failed"], 1);
}

#[test]
fn repeated_and_old_reports_count_once() {
    let mut rig = start(&[]);
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = web.offer();
    for _ in 0..3 {
        web.healthy(5, &offer);
    }
    // A report with an older number is acknowledged but changes nothing.
    web.report(&json!({ "seq": 4, "phase": "failed", "wants": offer["id"] }));
    assert_eq!(document(&rig, "fleet -name web -json")["hosts"][0]["phase"], "healthy");
    assert_eq!(count_attempts(&rig), 1);
    drop(web);
    rig.stop("-KILL");
    rig.run();
    let again = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    assert_eq!(again.next()["last_seq"], 5, "the last report was lost at kill -9");
    assert_eq!(document(&rig, "fleet -name web -json")["hosts"][0]["phase"], "healthy");
}

fn count_attempts(rig: &Rig) -> usize {
    let why = document(rig, "why -host web-01 -json");
    why["configurations"][0]["attempts"].as_array().unwrap().len()
}

#[test]
fn deploy_is_counted_once_if_its_agent_has_lost_the_number() {
    let rig = start(&[]);
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = web.offer();
    let mut report = |seq: u64, attempt: u64, phase: &str| {
        web.report(&json!({
            "seq": seq, "attempt": attempt, "phase": phase, "runs": offer["id"],
            "wants": offer["id"], "revision": offer["revision"],
        }));
    };
    report(1, 7, "checking");
    // The agent was killed before it had recorded that this deploy has the number 7.
    report(2, 6, "checking");
    report(3, 6, "healthy");
    assert_eq!(count_attempts(&rig), 1);
    // Another try of the same configuration is another deploy.
    report(4, 7, "checking");
    assert_eq!(count_attempts(&rig), 2);
}

#[test]
fn script_reports_its_result_with_stock_ssh() {
    let rig = start(&[]);
    let id = document(&rig, "showconf -name web -json")["Hash"].clone();
    let id = id.as_str().unwrap();
    let line = format!("report -name web -host old-01 -id {id} -code 0");
    assert!(agent(&rig, &line).status.success());
    rig.ok("wait -name web -timeout 1s");
    assert!(agent(&rig, &format!("report -name web -id {id} -code 9")).status.success());
    assert!(fails(&rig, "wait -name web -timeout 5s", 1).contains("127.0.0.1"));
    let fleet = document(&rig, "fleet -name web -json");
    let hosts = fleet["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 2, "{fleet}");
    assert_eq!((&hosts[0]["host"], &hosts[0]["phase"]), (&json!("127.0.0.1"), &json!("failed")));
    for (line, code, want) in [
        ("report -name nothing -host h -id ID -code 0", 6, "no configuration \"nothing\""),
        ("report -name web -host h -id beef -code 0", 2, "digest"),
        ("report -name web -host 'a b' -id ID -code 0", 2, "host name"),
        ("watch -name web", 2, "missing"),
    ] {
        let output = agent(&rig, &line.replace("ID", id));
        assert_eq!(output.status.code(), Some(code), "{line}: {}", both(&output));
        assert!(both(&output).contains(want), "{line}: {}", both(&output));
    }
    // A client with an agent's key may run no other commands.
    for line in ["gc", "fleet", "showconf -name web", "reports"] {
        assert!(!agent(&rig, line).status.success(), "{line}");
    }
}

#[test]
fn agent_that_only_polls_is_unknown_until_it_reports() {
    let rig = start(&[]);
    let poll = || rig.sftp("srv", "deploy-agent", "get configs/web.json polled.json");
    assert!(poll().status.success());
    let fleet = document(&rig, "fleet -name web -json");
    let (counts, host) = (&fleet["configurations"][0], &fleet["hosts"][0]);
    assert_eq!((&counts["unknown"], &counts["hosts"]), (&json!(1), &json!(0)), "{fleet}");
    assert_eq!((&host["host"], &host["phase"]), (&json!("127.0.0.1"), &json!("unknown")));
    let id = std::fs::read_to_string(rig.path("polled.json")).unwrap();
    let id: Value = serde_json::from_str(&id).unwrap();
    let line =
        format!("report -name web -host old-01 -id {} -code 0", id["Hash"].as_str().unwrap());
    assert!(agent(&rig, &line).status.success());
    assert!(poll().status.success());
    let fleet = document(&rig, "fleet -name web -json");
    let counts = &fleet["configurations"][0];
    assert_eq!((&counts["unknown"], &counts["done"]), (&json!(0), &json!(1)), "{fleet}");
}

#[test]
fn host_of_another_key_and_junk_change_nothing() {
    let rig = start(&[]);
    rig.authorize("srv.keys", "", &["srv", "other"]);
    rig.signal("-HUP");
    let mut web = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = web.offer();
    web.healthy(1, &offer);
    wait_until("the other key may log in", || {
        rig.ssh("other", "deploy-agent", &["report"]).status.code() == Some(2)
    });
    let mut thief = Watch::begin(&rig, "other", "web", "web-01", "b1");
    let first = thief.next();
    assert!(first["refused"].as_str().unwrap().contains("another key"), "{first}");
    assert!(first["offer"]["id"].is_string(), "the refused watch gets no offer");
    let report = json!({ "seq": 9, "phase": "failed", "wants": offer["id"] });
    assert!(thief.report(&report)["refused"].is_string());
    assert_eq!(document(&rig, "fleet -name web -json")["hosts"][0]["phase"], "healthy");
    let unknown = json!({ "seq": 2, "phase": "healthy" });
    let mut nowhere = Watch::begin(&rig, "srv", "nothing", "web-01", "a1");
    assert_eq!(nowhere.next()["offer"].get("id"), None);
    assert!(nowhere.report(&unknown)["refused"].as_str().unwrap().contains("nothing"));
    for junk in [&b"{"[..], b"[]", b"{\"report\": 1}", &vec![b'x'; 600 << 10]] {
        let mut broken = Watch::begin(&rig, "srv", "web", "web-02", "c1");
        broken.next();
        // The registry may close the watch before it has read everything.
        let _ = broken.input.write_all(junk);
        let _ = broken.input.write_all(b"\n");
        let ended = wait_for_end(&mut broken.child);
        assert_ne!(ended, Some(0), "{junk:.20?}");
    }
    // The registry accepts reports of a later protocol. It ignores an unknown field, and an unknown
    // phase counts as the phase `unknown`.
    let later = json!({ "seq": 2, "phase": "levitating", "revision": 1, "new": { "a": 1 } });
    web.report(&later);
    assert_eq!(document(&rig, "fleet -name web -json")["hosts"][0]["phase"], "unknown");
}

fn wait_for_end(child: &mut Child) -> Option<i32> {
    let mut code = None;
    wait_until("the watch ends", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|status| status.code())
}

#[test]
fn two_agents_under_one_name_are_told_apart() {
    let rig = start(&[]);
    let mut first = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    let offer = first.offer();
    first.healthy(1, &offer);
    let second = Watch::begin(&rig, "srv", "web", "web-01", "b2");
    second.next();
    let duplicate = || document(&rig, "fleet -name web -json")["hosts"][0]["duplicate"].clone();
    assert_eq!(duplicate(), true);
    wait_until("the event is recorded", || rig.ok("events").contains("host_duplicate"));
    assert!(rig.ok("fleet -name web").contains("two agents report under this name"));
    drop(second);
    wait_until("one agent is left", || duplicate() == false);
    // An agent begins a second watch only if its earlier watch is dead. So the registry ends the
    // earlier watch of the same agent.
    let again = Watch::begin(&rig, "srv", "web", "web-01", "a1");
    again.next();
    assert_ne!(wait_for_end(&mut first.child), Some(0));
    assert_eq!(duplicate(), false);
}

/// The wait is interrupted if a line of the agent arrives while the registry reads the new
/// configuration.
#[tokio::test]
async fn change_is_not_lost_if_the_wait_for_it_is_interrupted() {
    let bench = Bench::new(Settings::default()).await;
    bench.put("code", "v1", "one").await;
    bench.put("code", "v2", "two").await;
    bench.configure("web", &[("code", "v1")]).await.unwrap();
    let watcher = Watcher {
        key: "SHA256:abc".to_owned(),
        host: "web-01".parse().unwrap(),
        name: "web".parse().unwrap(),
        instance: "a1".to_owned(),
    };
    let fleet = Arc::clone(&bench.registry().fleet);
    let here = IpAddr::from([127, 0, 0, 1]);
    let mut session = WatchSession::begin(fleet, watcher, here).await.unwrap();
    session.next().await.unwrap().unwrap();
    let mut interrupted = 0;
    for n in 0..50 {
        let version = ["v2", "v1"][n % 2];
        bench.configure("web", &[("code", version)]).await.unwrap();
        // With this time limit, the call finds the change, but usually ends before the catalogue
        // has answered.
        let line = match timeout(Duration::ZERO, session.next()).await {
            Ok(line) => line,
            Err(_) => {
                interrupted += 1;
                timeout(SOON, session.next()).await.expect("the change is lost")
            }
        };
        let line = String::from_utf8(line.unwrap().unwrap().line.to_vec()).unwrap();
        assert!(line.contains(version), "{line}");
    }
    assert!(interrupted > 0, "no wait was interrupted");
}
