//! Tests twenty agents with a deploy script that fails on one of them.

#![allow(clippy::print_stdout, reason = "the test prints the time")]

use std::fs::{self, File};
use std::process::Child;
use std::time::{Duration, Instant};

use deploy_testing::eventually;

use super::document;
use crate::bench::Bench;

const AGENTS: usize = 20;

struct Fleet(Vec<Child>);

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in &mut self.0 {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn start(bench: &Bench) -> Fleet {
    let agents = (1..=AGENTS).map(|number| {
        let (host, dir) = (format!("web-{number:02}"), format!("agent-{number:02}"));
        fs::create_dir(bench.path(&dir)).unwrap();
        let state = format!("{dir}/state.json");
        let log = File::create(bench.path(&format!("{dir}.log"))).unwrap();
        // `bench.agent` also gives `-dir` and `-state`. If a flag is given twice, the last value
        // counts.
        let mut agent = bench.agent(&["-poll", "1h", "-host", &host]);
        agent.args(["-dir", &dir, "-state", &state]).stderr(log).spawn().unwrap()
    });
    Fleet(agents.collect())
}

#[test]
fn failure_on_one_of_twenty_hosts_is_reported_immediately() {
    let bench = Bench::new();
    let script = "#!/bin/sh\ngrep -q good \"$NEWROOT/conf\" && exit 0\n\
        case $NEWROOT in *agent-07/*) echo 'no such table: users'; exit 3;; esac\n";
    bench.script(script);
    bench.add_version("config", "v1", "conf", "good\n");
    bench.operator("ssh", &["addconf -name project1 -layer config:v1"], "");
    let fleet = start(&bench);
    eventually("all hosts run the first version", || {
        document(&bench, "fleet -name project1 -json")["configurations"][0]["done"] == AGENTS
    });
    bench.add_version("config", "v2", "conf", "bad on one host\n");
    let began = Instant::now();
    let line = "changeconf -name project1 -component config -version v2 -wait -timeout 60s";
    let output = bench.operator_output("ssh", &[line], "");
    let took = began.elapsed();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("1 failed (web-07)"), "{told}");
    let why = document(&bench, "why -host web-07 -json");
    let why = &why["configurations"][0];
    assert_eq!(
        (&why["output"], &why["attempts"][0]["exit_code"]),
        (&"no such table: users\n".into(), &3.into())
    );
    let failed = document(&bench, "fleet -name project1 -phase failed -json");
    assert_eq!(failed["hosts"].as_array().unwrap().len(), 1, "{failed:#}");
    // On a machine with other work, the deploys themselves may take seconds.
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("reported after {took:?}");
    drop(fleet);
}
