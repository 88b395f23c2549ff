//! Tests local rollbacks after a failed script, and local rollbacks whose own script fails. The
//! tests run such rollbacks with and without an agent.

use std::fs;

use crate::bench::{Agent, Bench, deployed, says};
use deploy_testing::eventually;

use super::{ask_beside, begun, is_noted, last, offered, service, settled, status};

#[test]
fn local_rollback_returns_from_a_failed_root() {
    let bench = Bench::new();
    let good = begun(&bench);
    let agent = Agent::start(&bench, &[]);
    bench.bump("v02", "bad\n");
    let bad = offered(&bench);
    says(&bench, &["sync"], 1, "exit status 3");
    // A running agent would deploy the bad configuration again soon after the failed rollback.
    // Therefore, the test stops the agent first. A kill could interrupt the agent's next attempt.
    agent.stop();
    // The rollback fails once. A rollback needs neither the registry nor an agent.
    fs::write(bench.path("fails"), "").unwrap();
    says(&bench, &["rollback"], 1, "exit status 4");
    assert_eq!(last(&bench), format!("{bad} {good}"));
    fs::remove_file(bench.path("fails")).unwrap();
    says(&bench, &["rollback"], 5, "no earlier configuration is recorded");
    assert_eq!(bench.once(&[]).0, Some(1), "the registry still has the bad configuration");
    let told = says(&bench, &["rollback", "-json"], 0, "").json();
    assert_eq!((&told["id"], &told["from"]), (&good.clone().into(), &bad.clone().into()));
    assert_eq!(last(&bench), format!("{bad} {good}"));
    assert_eq!(service(&bench).as_deref(), Some("one\n"));
    settled(&bench);
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 1, "on hold after a rollback");
    assert_eq!(service(&bench).as_deref(), Some("one\n"));
    bench.bump("v03", "three\n");
    says(&bench, &["sync"], 0, "switched to");
    assert_eq!(service(&bench).as_deref(), Some("three\n"));
    agent.stop();
}

#[test]
fn failed_local_rollback_is_retried_or_reverted() {
    let bench = Bench::new();
    let one = begun(&bench);
    let agent = Agent::start(&bench, &[]);
    bench.bump("v02", "two\n");
    let two = offered(&bench);
    says(&bench, &["sync"], 0, "switched to");
    fs::write(bench.path("fails"), "").unwrap();
    // The rollback fails. The registry's configuration is still the deployed configuration, so the
    // agent runs the script again for this configuration. The script fails again.
    says(&bench, &["rollback"], 1, "exit status 4");
    eventually("the script fails again", || status(&bench)["failures"] == 2);
    fs::remove_file(bench.path("fails")).unwrap();
    says(&bench, &["sync"], 0, "switched to");
    assert_eq!(last(&bench), format!("{one} {two}"));
    assert_eq!(service(&bench).as_deref(), Some("two\n"));
    settled(&bench);
    // If the agent is killed in the middle of a rollback, the next agent completes the rollback.
    fs::write(bench.path("wait"), "").unwrap();
    let mut asking = ask_beside(&bench, "rollback");
    eventually("the rollback's script runs", || bench.path("waits").exists() && is_noted(&bench));
    drop(agent);
    asking.wait().unwrap();
    let agent = Agent::start(&bench, &[]);
    fs::remove_file(bench.path("wait")).unwrap();
    eventually("the rollback is complete", || deployed(&bench) == "v01");
    says(&bench, &["sync"], 1, "on hold after a rollback");
    assert_eq!(last(&bench), format!("{two} {one}"));
    assert_eq!(service(&bench).as_deref(), Some("one\n"));
    settled(&bench);
    agent.stop();
    // Without an agent, an operator can repeat a failed rollback. The failure does not count as the
    // failure of a new configuration.
    says(&bench, &["rollback", "-release"], 0, "released");
    assert_eq!(bench.once(&[]).0, Some(0));
    fs::write(bench.path("fails"), "").unwrap();
    says(&bench, &["rollback"], 1, "exit status 4");
    fs::remove_file(bench.path("fails")).unwrap();
    says(&bench, &["rollback"], 0, &format!("rolled back to {one}"));
    assert_eq!(service(&bench).as_deref(), Some("one\n"));
    settled(&bench);
}
