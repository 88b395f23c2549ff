//! Tests half-open connections: connections that neither end has closed, but that carry no data any
//! more.

use std::process::Child;
use std::time::{Duration, Instant};

use super::host;
use crate::bench::{Agent, Bench, says};

/// Maximum time until a side notices a half-open connection. Each side treats a connection as dead
/// after 90 seconds of silence, and the test allows 20 seconds more.
const NOTICED: Duration = Duration::from_secs(90 + 20);

fn signal(process: &Child, signal: &str) {
    rustix::process::kill_process(
        rustix::process::Pid::from_child(process),
        match signal {
            "stop" => rustix::process::Signal::STOP,
            _ => rustix::process::Signal::CONT,
        },
    )
    .unwrap();
}

#[track_caller]
fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The test makes a connection half-open by stopping a program. A stopped program keeps its
/// connections, and the kernel still acknowledges the packets that arrive.
#[test]
fn silent_connection_is_noticed_on_both_sides() {
    let benches = [Bench::new(), Bench::new()];
    let agents = benches.each_ref().map(|bench| {
        bench.first_configuration();
        let agent = Agent::watching(bench, &[]);
        bench.deployed("v01");
        super::reports_done(bench);
        agent
    });
    let watching =
        |bench: &Bench| says(bench, &["status", "-json"], 0, "").json()["watching"] == true;
    let [silent_registry, silent_agent] = &benches;
    within(NOTICED, "the agent watches", || watching(silent_registry));
    signal(&silent_registry.registry.process, "stop");
    signal(&agents[1].process, "stop");
    within(NOTICED, "the agent notices", || !watching(silent_registry));
    let log = silent_registry.agent_log();
    assert!(log.contains("the registry has been silent for 90 seconds"), "{log}");
    within(NOTICED, "the registry notices", || host(silent_agent)["connected"] == false);
    // Both programs continue, and connect again on their own.
    signal(&silent_registry.registry.process, "continue");
    signal(&agents[1].process, "continue");
    for bench in &benches {
        super::change(bench, "v02", "two\n");
    }
    for bench in &benches {
        within(NOTICED, "the change is confirmed", || host(bench)["done"] == true);
        assert_eq!(host(bench)["connected"], true);
    }
    agents.into_iter().for_each(Agent::stop);
}
