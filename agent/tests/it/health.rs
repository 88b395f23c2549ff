//! Tests the health gate: each kind of check, hanging and flapping checks, and the agent's
//! rollback.

mod decisions;
pub mod gated;
mod interrupted;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use deploy_testing::eventually;
use serde_json::Value;

use crate::bench::{Bench, deployed, says};
use crate::health::gated::{
    PATIENT, QUICK, Web, active, answer, bench, check, is_gone, ms_between, named, once, once_of,
    reason,
};
use crate::source::write_executable;

/// Checks that the gate rejected the second configuration for a reason that starts with `want`, and
/// that the first configuration is deployed again.
#[track_caller]
fn is_back(bench: &Bench, (code, events): &(Option<i32>, Vec<Value>), want: &str) {
    assert_eq!(*code, Some(1), "{events:#?}");
    let reason = reason(events);
    assert!(reason.starts_with(&format!("health {want}")), "{reason}");
    assert!(reason.ends_with(" s after the switch"), "{reason}");
    assert_eq!((named(events, "rolled_back").len(), named(events, "held").len()), (1, 1));
    assert_eq!((deployed(bench).as_str(), active(bench).as_str()), ("v01", "one"));
    let status = says(bench, &["status", "-json"], 0, "").json();
    let health = &status["health"];
    assert_eq!((&health["result"], &health["action"]), (&"failed".into(), &"rolled_back".into()));
    assert_eq!(
        (&health["reason"], &status["hold"]["reason"]),
        (&reason[..].into(), &reason[..].into())
    );
    assert_eq!(health["id"], status["hold"]["from"]);
    says(bench, &["status"], 0, &format!("failed: {reason}; rolled back   since "));
    assert!(!bench.path("a1/checking.json").exists());
}

/// Checks that the gate found the first configuration healthy.
#[track_caller]
fn is_healthy(bench: &Bench, (code, events): &(Option<i32>, Vec<Value>)) {
    assert_eq!(*code, Some(0), "{events:#?}");
    let [started, healthy] =
        ["health_started", "healthy"].map(|name| named(events, name).first().copied());
    let (started, healthy) = started.zip(healthy).expect("the gate runs");
    assert!(healthy["ms"].as_u64().unwrap() >= 100, "{healthy}");
    assert!(started["checks"].as_str().is_some_and(|checks| !checks.is_empty()));
    let status = says(bench, &["status", "-json"], 0, "").json();
    assert_eq!(status["health"]["result"], "healthy");
    assert_eq!(status["health"]["checks"][0], started["checks"]);
    assert_eq!(status["health"]["id"], status["configuration"]["id"]);
    assert!(!bench.path("a1/checking.json").exists());
}

#[test]
fn http_check_accepts_only_success() {
    let bench = bench();
    let web = Web::start(&answer("204 No Content"));
    is_healthy(&bench, &once(&bench, &web.check(), &PATIENT));
    assert!(web.asked() >= 2);
    bench.bump("v02", "two\n");
    let check = web.check();
    let release = || says(&bench, &["rollback", "-release"], 0, "released");
    let location = "302 Found\r\nLocation: http://elsewhere.example/";
    for (answer, want) in [
        (answer("503 Service Unavailable"), "status 503, "),
        (answer(location), "status 302 (a redirect to http://elsewhere.example/, not followed)"),
        (answer("404 Not Found"), "status 404, "),
        (String::new(), "no answer within 1 s"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nends early".to_owned(), ""),
        ("SSH-2.0-other\r\n".to_owned(), ""),
    ] {
        web.answers(&answer);
        let ended = once(&bench, &check, &QUICK);
        assert_eq!(ended.0, Some(1), "{answer:?}");
        let found = reason(&ended.1);
        assert!(found.starts_with(&format!("health {check}: {want}")), "{found}");
        assert_eq!((deployed(&bench).as_str(), active(&bench).as_str()), ("v01", "one"));
        release();
    }
    // A very long body does not make the check fail.
    let endless =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}", "x".repeat(1 << 20));
    web.answers(&endless);
    let (code, events) = once(&bench, &check, &QUICK);
    assert_eq!((code, deployed(&bench).as_str()), (Some(0), "v02"), "{events:#?}");
}

#[test]
fn tcp_check_fails_if_nothing_listens_on_the_port() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let check = format!("tcp://{}", listener.local_addr().unwrap());
    is_healthy(&bench, &once(&bench, &check, &PATIENT));
    drop(listener);
    bench.bump("v02", "two\n");
    let ended = once(&bench, &check, &QUICK);
    is_back(&bench, &ended, &format!("{check}: connection refused, "));
}

/// Tests the check of a systemd unit. The test puts its own `systemctl` into a directory of `PATH`,
/// because the machines that run tests usually have no service manager.
#[test]
fn unit_check_needs_an_active_unit() {
    let bench = bench();
    fs::create_dir(bench.path("bin")).unwrap();
    let dir = bench.temp.path().display();
    let body = format!(
        "#!/bin/sh\necho \"$*\" >>{dir}/systemctl.log\nstate=$(cat {dir}/unit) || exit 1\n\
         echo $state\n[ $state = active ] || exit 3\n"
    );
    write_executable(&bench.path("bin/systemctl"), &body);
    let path = format!("{dir}/bin:{}", std::env::var("PATH").unwrap());
    let run = || {
        let mut agent =
            bench.agent(&["-once", "-log-format", "json", "-health", "unit:web.service"]);
        once_of(agent.args(QUICK).env("PATH", &path))
    };
    fs::write(bench.path("unit"), "active\n").unwrap();
    is_healthy(&bench, &run());
    let log = fs::read_to_string(bench.path("systemctl.log")).unwrap();
    assert!(log.lines().all(|line| line == "is-active -- web.service"), "{log}");
    bench.bump("v02", "two\n");
    fs::write(bench.path("unit"), "failed\n").unwrap();
    is_back(&bench, &run(), "unit web.service is failed, ");
    says(&bench, &["rollback", "-release"], 0, "released");
    fs::remove_file(bench.path("unit")).unwrap();
    is_back(&bench, &run(), "unit web.service: systemctl: cat: ");
}

#[test]
fn command_check_gets_the_variables_of_the_new_root_and_its_last_line_is_reported() {
    let bench = bench();
    fs::write(bench.path("variables"), "ROLE=web 1\n").unwrap();
    let more = [&QUICK[..], &["-script-env-file", "variables"]].concat();
    check(
        &bench,
        "env >seen.new && mv seen.new seen\ncat \"$NEWROOT/conf\"\ngrep -q one \"$NEWROOT/conf\" || { echo no; echo; exit 3; }",
    );
    is_healthy(&bench, &once(&bench, "cmd:./check", &more));
    let seen = fs::read_to_string(bench.path("seen")).unwrap();
    let id = bench.state().unwrap().id();
    for want in [format!("NEWID={id}"), "ROLE=web 1".to_owned(), "LAYER_1_NAME=config".to_owned()] {
        assert!(seen.lines().any(|line| line == want), "{want}: {seen}");
    }
    let root = seen.lines().find_map(|line| line.strip_prefix("NEWROOT=")).unwrap();
    assert!(Path::new(root).is_absolute() && Path::new(root).join("conf").exists());
    for absent in ["OLDID=", "OLDROOT=", "STATEFILE="] {
        assert!(!seen.contains(absent), "{absent}: {seen}");
    }
    bench.bump("v02", "two\n");
    is_back(&bench, &once(&bench, "cmd:./check", &more), "cmd ./check: exit status 3: no, ");
    says(&bench, &["rollback", "-release"], 0, "released");
    fs::remove_file(bench.path("check")).unwrap();
    let ended = once(&bench, "cmd:./check", &more);
    is_back(&bench, &ended, "cmd ./check: no such file or directory, ");
}

/// The script kills the registry when the script runs for the second configuration. The rollback
/// still succeeds, so it needs no registry.
#[test]
fn registry_check_needs_the_registry_but_the_rollback_does_not() {
    let mut bench = bench();
    is_healthy(&bench, &once(&bench, "registry", &PATIENT));
    bench.bump("v02", "two\n");
    let pid = bench.registry.process.id();
    bench.script(&format!(
        "#!/bin/sh\ncp -f $NEWROOT/conf active\ngrep -q one active || kill -KILL {pid}\n"
    ));
    let ended = once(&bench, "registry", &QUICK);
    bench.registry.process.wait().unwrap();
    is_back(&bench, &ended, "registry: ");
    assert!(reason(&ended.1).contains("refused"), "{}", reason(&ended.1));
}

/// The test repeats the measurement up to three times, because other processes may delay the agent.
#[test]
fn agent_rolls_back_right_after_the_deadline() {
    let bench = bench();
    let web = Web::start(&answer("200 OK"));
    assert_eq!(once(&bench, &web.check(), &PATIENT).0, Some(0));
    web.answers(&answer("500 Internal Server Error"));
    let mut late = Vec::new();
    for version in ["v02", "v03", "v04"] {
        bench.bump(version, &format!("{version}\n"));
        let ended = once(&bench, &web.check(), &QUICK);
        is_back(&bench, &ended, &web.check());
        let finished = named(&ended.1, "script_finished");
        let [new, old] = finished[..] else { panic!("{finished:#?}") };
        let ms = ms_between(new, old);
        let of_script = i64::try_from(old["ms"].as_u64().unwrap()).unwrap();
        assert!(ms >= 1000, "{ms} ms: the agent did not wait for the deadline");
        if ms <= 1000 + 100 + of_script {
            return;
        }
        late.push((ms, of_script));
    }
    panic!("the rollback was too late each time (ms in total, ms of the script): {late:?}");
}

#[test]
fn check_that_hangs_is_ended_with_its_processes() {
    let bench = bench();
    check(&bench, "exit 0");
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    check(&bench, "sleep 600 &\necho $! >pid\nwait");
    let began = Instant::now();
    let ended = once(&bench, "cmd:./check", &QUICK);
    is_back_without_answer(&bench, &ended);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    eventually("the process `sleep` has ended", || is_gone(&bench.path("pid")));
}

#[track_caller]
fn is_back_without_answer(bench: &Bench, (code, events): &(Option<i32>, Vec<Value>)) {
    let reason = reason(events);
    assert!(reason.starts_with("health cmd ./check: no answer within 1 s"), "{reason}");
    assert_eq!((*code, deployed(bench).as_str()), (Some(1), "v01"));
}

#[test]
fn check_that_flaps_is_not_healthy() {
    let bench = bench();
    check(&bench, "exit 0");
    assert_eq!(once(&bench, "cmd:./check", &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    // Every second run fails.
    check(&bench, "if [ -e odd ]; then rm odd; exit 1; fi; touch odd");
    let (code, events) = once(&bench, "cmd:./check", &QUICK);
    assert_eq!((code, deployed(&bench).as_str()), (Some(1), "v01"), "{events:#?}");
    let reason = reason(&events);
    let is_counted = reason.contains("exit status 1, once, ")
        || reason.contains("only 1 of 2 successes in a row");
    assert!(is_counted, "{reason}");
    says(&bench, &["rollback", "-release"], 0, "released");
    let one = ["-health-successes", "1", "-health-min", "100ms", "-health-deadline", "1s"];
    let (code, events) = once(&bench, "cmd:./check", &one);
    assert_eq!((code, deployed(&bench).as_str()), (Some(0), "v02"), "{events:#?}");
}

#[test]
fn all_of_several_checks_must_succeed() {
    let bench = bench();
    let web = Web::start(&answer("200 OK"));
    check(&bench, "exit 0");
    let both = format!("{},cmd:./check", web.check());
    assert_eq!(once(&bench, &both, &PATIENT).0, Some(0));
    bench.bump("v02", "two\n");
    check(&bench, "exit 7");
    is_back(&bench, &once(&bench, &both, &QUICK), "cmd ./check: exit status 7, ");
}

#[test]
fn impossible_flags_are_refused_at_the_start() {
    let bench = bench();
    for (flags, want) in [
        (&["-health", "https://host/"][..], "https is not supported; give cmd:PATH"),
        (&["-health", "tcp://host"], "it has no port; give tcp://HOST:PORT"),
        (&["-health", "registry", "-health-min", "5m"], "lower -health-min"),
        (&["-health", "registry", "-health-deadline", "0s"], "must be more than 0s"),
        (&["-health", "registry", "-health-successes", "400"], "lower -health-successes"),
    ] {
        let (code, log) = bench.once(flags);
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains(want), "{flags:?}: {log}");
    }
    assert!(!bench.path("a1").exists(), "the agent created its directory");
}
