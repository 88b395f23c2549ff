//! Tests maintenance windows. While the windows are closed, an agent prepares a deploy, but does
//! not switch.

use super::{change, host, reports, reports_done};
use crate::bench::{Agent, Bench, deployed, says};

#[test]
fn agent_prepares_the_deploy_and_runs_the_script_in_the_window() {
    let bench = Bench::new();
    bench.first_configuration();
    let set = |times: &str| {
        bench.operator("ssh", &[&format!("window set db -times '{times}'")], "");
    };
    let closed = "Mon 00:00-00:01 UTC; Thu 00:00-00:01 UTC";
    set(closed);
    let agent = Agent::watching(&bench, &[]);
    bench.deployed("v01");
    reports_done(&bench);
    bench.operator("ssh", &["host label web-01 group=db"], "");
    change(&bench, "v02", "two\n");
    reports(&bench, "staged");
    assert_eq!((deployed(&bench).as_str(), bench.runs()), ("v01", 1));
    says(&bench, &["sync"], 1, "waits for the maintenance window");
    assert_eq!(host(&bench)["done"], false);
    // The next command opens the window.
    set("00:00-24:00 UTC");
    bench.deployed("v02");
    reports_done(&bench);
    assert_eq!(bench.runs(), 2);
    assert!(bench.agent_log().contains("waits for the maintenance window"));
    // A rollback on the host does not wait for the window.
    set(closed);
    says(&bench, &["rollback"], 0, "rolled back to");
    assert_eq!(deployed(&bench), "v01");
    agent.stop();
}
