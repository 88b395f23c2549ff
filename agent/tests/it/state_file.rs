//! Tests where the state file is, which agent may use it, and how the agent treats roots that an
//! earlier agent made.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::bench::{Agent, Bench, says};
use deploy_store::{Configuration, Digest};

/// Runs an agent once, with the directory `dir` and the flags `more`.
fn once(bench: &Bench, dir: &str, more: &[&str]) -> (Option<i32>, String) {
    let crate::bench::Registry { addr, fingerprint, .. } = &bench.registry;
    let output = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(["-addr", addr, "-fp", fingerprint, "-key", "srv", "-name", "project1"])
        .args(["-once", "-dir", dir])
        .args(more)
        .current_dir(bench.temp.path())
        .output()
        .unwrap();
    let Output { status, stderr, .. } = output;
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn deploys(bench: &Bench, dir: &str) -> String {
    let (code, log) = once(bench, dir, &[]);
    assert_eq!(code, Some(0), "{log}");
    log
}

fn version(path: &Path) -> String {
    let state = Configuration::from_json(&fs::read(path).unwrap()).unwrap();
    state.layers()[1].version.as_str().to_owned()
}

#[test]
fn two_agents_in_one_working_directory_are_independent() {
    let bench = Bench::new();
    bench.first_configuration();
    for dir in ["one", "two", "one", "two"] {
        deploys(&bench, dir);
    }
    assert_eq!(bench.runs(), 2);
    bench.bump("v02", "two\n");
    deploys(&bench, "one");
    assert_eq!(version(&bench.path("one/state.json")), "v02");
    assert_eq!(version(&bench.path("two/state.json")), "v01");
    deploys(&bench, "two");
    assert_eq!(bench.runs(), 4);
    assert!(!bench.path("state.json").exists());
    // A subcommand finds the state file from any working directory.
    let status = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(["status", "-json", "-dir"])
        .arg(bench.path("one"))
        .current_dir("/")
        .output()
        .unwrap();
    assert!(String::from_utf8(status.stdout).unwrap().contains("\"version\": \"v02\""));
}

#[test]
fn state_file_in_the_working_directory_is_used_only_by_its_agent() {
    let bench = Bench::new();
    bench.first_configuration();
    // Imitates an earlier agent, which recorded only the place of its state file.
    assert_eq!(once(&bench, "one", &["-state", "state.json"]).0, Some(0));
    fs::remove_file(bench.path("state.json.dir")).unwrap();
    deploys(&bench, "one");
    assert_eq!(bench.runs(), 1);
    assert!(!bench.path("one/state.json").exists() && bench.path("state.json.dir").exists());
    // Another agent that starts in this working directory uses its own state file, and logs this
    // decision.
    let log = deploys(&bench, "two");
    let want = "state.json belongs to the agent of another directory, not to the agent of two; ";
    assert!(log.contains(want), "{log}");
    assert!(bench.path("two/state.json").exists());
    assert_eq!(bench.runs(), 2);
    // Imitates a Go agent, which recorded nothing. The Go agent's root exists.
    for name in ["one/agent.json", "state.json.dir"] {
        fs::remove_file(bench.path(name)).unwrap();
    }
    deploys(&bench, "one");
    assert_eq!(bench.runs(), 2);
    fs::remove_dir_all(bench.path("two")).unwrap();
    fs::remove_file(bench.path("state.json.dir")).unwrap();
    fs::create_dir(bench.path("two")).unwrap();
    deploys(&bench, "two");
    assert!(bench.path("two/state.json").exists());
    bench.bump("v02", "two\n");
    deploys(&bench, "one");
    assert_eq!(version(&bench.path("state.json")), "v02");
}

#[test]
fn state_file_of_another_agent_is_refused() {
    let bench = Bench::new();
    bench.first_configuration();
    let state = ["-state", "state.json"];
    assert_eq!(once(&bench, "one", &state).0, Some(0));
    let refused = |dir: &str, more: &[&str], one: &str| {
        let before = bench.runs();
        let (code, log) = once(&bench, dir, more);
        assert_eq!(code, Some(1), "{log}");
        for want in [one, dir, "belongs to the agent of", "-state"] {
            assert!(log.contains(want), "{want}: {log}");
        }
        assert_eq!((log.lines().count(), bench.runs()), (1, before), "{log}");
        assert!(!bench.path(dir).join("objects").exists(), "the agent created files");
    };
    refused("two", &state, bench.path("one").to_str().unwrap());
    deploys(&bench, "three");
    refused("two", &["-state", "three/state.json"], "three");
    // Subcommands that change something may not use this state file, either.
    deploys(&bench, "four");
    for verb in ["gc", "rollback"] {
        let output = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
            .args([verb, "-dir", "four", "-state", "state.json"])
            .current_dir(bench.temp.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("belongs to the agent of"), "{verb}: {said}");
    }
    // Earlier agents kept the record in the agent's directory, not beside the state file.
    fs::rename(bench.path("state.json.dir"), bench.path("aside")).unwrap();
    refused("two", &state, "one");
    // A Go agent left no record, only a root.
    fs::rename(bench.path("one/agent.json"), bench.path("aside.json")).unwrap();
    refused("two", &state, "one");
    fs::rename(bench.path("aside.json"), bench.path("one/agent.json")).unwrap();
    fs::rename(bench.path("aside"), bench.path("state.json.dir")).unwrap();
    // The other agent's directory no longer exists, so the next agent may use the state file.
    fs::rename(bench.path("one"), bench.path("moved")).unwrap();
    assert_eq!(once(&bench, "moved", &state).0, Some(0));
    assert_eq!(bench.runs(), 3);
    refused("two", &state, bench.path("moved").to_str().unwrap());
}

#[test]
fn unusable_state_file_is_reported_before_any_work() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    bench.bump("v02", "two\n");
    let attribute = |flag: &str| {
        let changed = Command::new("chattr").arg(flag).arg(bench.path("state.json")).output();
        changed.is_ok_and(|output| output.status.success())
    };
    if rustix::process::geteuid().is_root() && attribute("+i") {
        let said = says(&bench, &["sync"], 1, "state.json").out;
        let whole = agent.bench.agent_log();
        assert!(attribute("-i"));
        assert!(said.contains("chattr -i -a"), "{said}{whole}");
        assert_eq!(bench.runs(), 1, "a script ran although its success cannot be recorded");
    }
    says(&bench, &["sync"], 0, "switched to");
    agent.stop();
    if rustix::process::geteuid().is_root() {
        // The test runs the agent as a user who may not read the state file.
        let run = |program: &str, words: &[&str]| {
            let done = Command::new(program).args(words).current_dir(bench.temp.path()).output();
            let done = done.unwrap();
            (done.status.code(), String::from_utf8(done.stderr).unwrap())
        };
        let top = bench.temp.path().to_str().unwrap();
        run("chown", &["-R", "65534:65534", top]);
        run("chown", &["0:0", "state.json"]);
        run("chmod", &["600", "state.json"]);
        let crate::bench::Registry { addr, fingerprint, .. } = &bench.registry;
        let own = env!("CARGO_BIN_EXE_deploy-agent");
        let (code, log) = run(
            "setpriv",
            &[
                &["--reuid=65534", "--regid=65534", "--clear-groups", "--", own, "-once"][..],
                &["-addr", addr, "-fp", fingerprint, "-key", "srv", "-name", "project1"],
                &["-dir", "a1", "-state", "state.json"],
            ]
            .concat(),
        );
        assert_eq!((code, log.lines().count()), (Some(1), 1), "{log}");
        assert!(log.contains("state.json: permission denied; "), "{log}");
    }
}

/// Makes three roots as an earlier agent would, each with a file `etc/mine`. Returns the ids of the
/// roots.
fn taken_over(bench: &Bench) -> Vec<String> {
    let ids = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()).to_string());
    for (n, id) in ids.iter().enumerate() {
        let root = bench.path("a1/unpacked").join(id);
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/mine"), "mine").unwrap();
        let mark = fs::File::create(root.with_extension("ok")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 * (n as u64 + 1));
        mark.set_modified(time).unwrap();
    }
    ids.to_vec()
}

fn there(bench: &Bench, ids: &[String]) -> Vec<bool> {
    ids.iter().map(|id| bench.path("a1/unpacked").join(id).join("etc/mine").exists()).collect()
}

#[test]
fn roots_of_an_earlier_agent_are_kept_by_default() {
    let bench = Bench::new();
    bench.first_configuration();
    let ids = taken_over(&bench);
    // `verify` runs before any agent.
    let told = says(&bench, &["verify"], 0, "3 roots were here before this agent").out;
    assert!(told.contains("cannot tell whether they are damaged"), "{told}");
    let agent = Agent::start(&bench, &["-no-spare"]);
    says(&bench, &["sync"], 0, "");
    for (version, text) in [("v02", "two\n"), ("v03", "three\n"), ("v04", "four\n")] {
        bench.bump(version, text);
        says(&bench, &["sync"], 0, "switched to");
    }
    assert_eq!(there(&bench, &ids), [true; 3]);
    let status = says(&bench, &["status"], 0, "3 roots that were here before this agent").out;
    let json = says(&bench, &["status", "-json"], 0, "").json();
    for id in &ids {
        assert!(status.contains(&format!("taken over     {id}\n")), "{status}");
    }
    assert_eq!(json["taken_over"], serde_json::json!(ids));
    assert_eq!(says(&bench, &["verify", "-json"], 0, "").json()["taken_over"], 3);
    let kept = |verb: &[&str]| {
        let told = says(&bench, verb, 0, "").out;
        for id in &ids {
            let line = format!("keep    root        unpacked/{id}   it was here before this agent");
            assert!(told.contains(&line), "{told}");
        }
        assert_eq!(there(&bench, &ids), [true; 3]);
    };
    kept(&["gc", "-n"]);
    kept(&["gc"]);
    // A dry run removes nothing.
    let told = says(&bench, &["gc", "-n", "-taken-over"], 0, "no rule keeps this root").out;
    assert!(ids.iter().all(|id| told.contains(&format!("remove  root        unpacked/{id}"))));
    assert_eq!(there(&bench, &ids), [true; 3]);
    agent.stop();
    kept(&["gc", "-n"]);
    says(&bench, &["gc", "-taken-over"], 0, "no rule keeps this root");
    assert_eq!(there(&bench, &ids), [false; 3]);
    assert_eq!(
        says(&bench, &["status", "-json"], 0, "").json()["taken_over"],
        serde_json::json!([])
    );
    // While an agent runs, the result is the same.
    taken_over(&bench);
    let agent = Agent::start(&bench, &["-no-spare"]);
    says(&bench, &["gc", "-taken-over"], 0, "no rule keeps this root");
    assert_eq!(there(&bench, &ids), [false; 3]);
    agent.stop();
}

#[test]
fn explicit_keep_count_includes_roots_of_an_earlier_agent() {
    let bench = Bench::new();
    bench.first_configuration();
    let ids = taken_over(&bench);
    assert_eq!(bench.once(&[]).0, Some(0));
    bench.bump("v02", "two\n");
    assert_eq!(bench.once(&["-keep-roots", "3"]).0, Some(0));
    assert_eq!(
        there(&bench, &ids),
        [false, false, true],
        "only the newest root of the earlier agent is kept"
    );
    bench.bump("v03", "three\n");
    assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    assert_eq!(there(&bench, &ids), [false; 3]);
    assert_eq!(fs::read_dir(bench.path("a1/roots")).unwrap().count(), 1);
}

#[test]
fn unreadable_roots_of_an_earlier_agent_are_reported() {
    let bench = Bench::new();
    let ids = taken_over(&bench);
    if rustix::process::geteuid().is_root() {
        return;
    }
    let file = bench.path("a1/unpacked").join(&ids[0]).join("etc/mine");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    says(&bench, &["verify"], 8, "mine: open");
}
