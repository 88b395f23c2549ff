//! Tests `rollback`: with a running agent, without an agent, and after an interruption.

use std::fs;
use std::process::{Command, Stdio};

use crate::bench::{Agent, Bench, deployed, says, start_registry_with, terminate};
use deploy_testing::eventually;

#[test]
fn hold_of_a_rollback_lasts_until_the_registry_changes_even_after_a_restart() {
    let bench = Bench::new();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["rollback"], 5, "nothing is deployed");
    bench.first_configuration();
    says(&bench, &["sync"], 0, "");
    let v1 = bench.state().unwrap().id().to_string();
    says(&bench, &["rollback"], 5, "no earlier configuration is recorded");
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "");
    let v2 = bench.state().unwrap().id().to_string();
    let back = says(&bench, &["rollback", "--json"], 0, "").json();
    assert_eq!((&back["id"], &back["from"]), (&v1.clone().into(), &v2.clone().into()));
    assert_eq!(deployed(&bench), "v01");
    let runs = fs::read_to_string(bench.path("runs")).unwrap();
    assert!(runs.ends_with(&format!("{v2} {v1}\n")), "no run for the rollback: {runs}");
    let held = says(&bench, &["sync", "--json"], 1, "").json();
    assert_eq!((&held["outcome"], &held["id"]), (&"rolled_back".into(), &v2.clone().into()));
    assert_eq!(deployed(&bench), "v01");
    says(&bench, &["rollback"], 5, &format!("the last rollback was from {v2}"));
    says(&bench, &["status"], 0, &format!("held           {v2}"));
    for want in [" rolled back to ", "configuration is held after a rollback"] {
        assert!(bench.agent_log().contains(want), "{}", bench.agent_log());
    }
    agent.stop();

    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 1, "on hold after a rollback to ");
    assert_eq!(deployed(&bench), "v01");
    let (code, log) = {
        agent.stop();
        bench.once(&[])
    };
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("held after a rollback, until that configuration changes"), "{log}");
    assert_eq!(deployed(&bench), "v01");
    let agent = Agent::start(&bench, &[]);
    bench.bump("v03", "three\n");
    says(&bench, &["sync"], 0, "switched");
    assert_eq!(deployed(&bench), "v03");
    assert!(!bench.path("a1/hold.json").exists());
    assert!(bench.agent_log().contains("the hold has ended"));

    // After a rollback and a release, the agent deploys the registry's configuration again.
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(deployed(&bench), "v01");
    says(&bench, &["rollback", "--release"], 0, "released");
    says(&bench, &["sync"], 0, "up to date");
    assert_eq!(deployed(&bench), "v03");
    says(&bench, &["rollback", "-release"], 0, "nothing was held");
    agent.stop();
}

#[test]
fn rollback_on_the_registry_needs_no_download() {
    let mut bench = Bench::new();
    let addr = bench.registry.addr.clone();
    terminate(&mut bench.registry.process);
    let flags = ["-maxver", "1", "-grace", "0s"];
    bench.registry = start_registry_with(bench.temp.path(), &addr, &flags);
    bench.first_configuration();
    assert_eq!(bench.once(&[]).0, Some(0));
    for (version, text) in [("v02", "two\n"), ("v03", "three\n")] {
        bench.bump(version, text);
        assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    }
    // With `-maxver 1`, the registry's gc keeps only the newest version of each component, and the
    // versions that a rollback needs.
    let kept = bench.operator("ssh", &["gc"], "");
    assert!(kept.contains("rollback") && kept.ends_with("0 bytes freed\n"), "{kept}");
    bench.operator("ssh", &["rollback -name project1 -to 1"], "");
    let (code, log) = bench.once(&["-v"]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(deployed(&bench), "v01");
    assert!(log.contains("downloaded 0 of 2 layers: 0 bytes"), "{log}");
}

#[test]
fn rollback_without_an_agent_rebuilds_a_missing_root() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&[]).0, Some(0));
    bench.bump("v02", "two\n");
    // Only one root is kept, so the previous root and its record are removed.
    assert_eq!(bench.once(&["-cleanold"]).0, Some(0));
    assert_eq!(fs::read_dir(bench.path("a1/roots")).unwrap().count(), 1);
    bench.script("#!/bin/sh\nexit 4\n");
    let v2 = bench.state().unwrap().id();
    says(&bench, &["rollback"], 1, "exit status 4");
    assert_eq!(bench.state().unwrap().id(), v2);
    assert!(!bench.path("a1/hold.json").exists(), "held although nothing was rolled back");
    bench.script("#!/bin/sh\ncat $NEWROOT/conf >>confs\n");
    says(&bench, &["rollback", "-script", "./none.sh"], 1, "no such file");
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(fs::read_to_string(bench.path("confs")).unwrap(), "one\n");
    assert_eq!(deployed(&bench), "v01");
    says(&bench, &["rollback", "--release"], 0, "released");
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(deployed(&bench), "v02");

    // The rollback must download layers that are no longer in the cache.
    says(&bench, &["gc", "-cleanold"], 0, "freed");
    says(&bench, &["rollback"], 1, "no registry was named");
    let (addr, fp) = (bench.registry.addr.clone(), bench.registry.fingerprint.clone());
    says(&bench, &["rollback", "-addr", &addr, "-fp", &fp, "-key", "srv"], 0, "rolled back to");
    assert_eq!(deployed(&bench), "v01");
}

#[test]
fn killed_rollback_is_completed_by_the_next_start() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "");
    bench.script(
        "#!/bin/sh\nmkfifo go 2>/dev/null || { echo again >>runs; exit 0; }\nread line <go\n",
    );
    let asking = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(["rollback", "-dir", "a1"])
        .current_dir(bench.temp.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the script waits", || bench.path("go").exists());
    // The next agent waits for the script only if the start of the script was recorded.
    eventually("the script is recorded", || bench.path("a1/script.json").exists());
    // A second subcommand waits for the rollback, and also fails when the agent is killed.
    let waiting = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(["gc", "-dir", "a1"])
        .current_dir(bench.temp.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop(agent);
    for (child, alone) in [(asking, false), (waiting, true)] {
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let gone = output.status.code() == Some(1) && err.contains("ended before it answered");
        // The second subcommand may have started after the agent's end, while the script still
        // runs.
        let refused = err.contains("a script whose agent was killed runs for");
        assert!(gone || (alone && refused), "{err}");
    }
    assert_eq!(deployed(&bench), "v02");
    assert!(bench.path("a1/control").exists(), "a killed agent cannot remove its socket");
    let agent = Agent::start(&bench, &[]);
    eventually("the agent waits", || bench.agent_log().contains("waiting for the script's end"));
    fs::write(bench.path("go"), "done\n").unwrap();
    eventually("the rollback is complete", || deployed(&bench) == "v01");
    says(&bench, &["sync"], 1, "on hold after a rollback to ");
    assert!(fs::read_to_string(bench.path("runs")).unwrap().ends_with("again\n"));
    agent.stop();
}
