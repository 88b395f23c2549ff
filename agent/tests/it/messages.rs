//! Tests messages for operators. A message says what failed, on which thing, why, and what to do
//! next.

use std::fs;

use crate::bench::{Agent, Bench};
use deploy_testing::eventually;
use deploy_wire::exit;

#[test]
fn failed_script_message_warns_of_possible_changes() {
    let bench = Bench::new();
    bench.first_configuration();
    bench.script("#!/bin/sh\necho why\nexit 3\n");
    let (code, log) = bench.once(&[]);
    assert_eq!(code, Some(i32::from(exit::FAILED)), "{log}");
    let told = log.lines().last().unwrap();
    let kept = bench.path("a1/script.log");
    for part in [
        "script \"./deploy.sh\" call failure: exit status 3; ",
        " is not deployed; the state file is unchanged, but the script may have made changes; ",
        &format!("its output is in {} and in the agent's log", kept.display()),
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert_eq!(fs::read_to_string(kept).unwrap(), "why\n");
    // An agent that runs without `-once` also logs the time of the next attempt.
    let agent = Agent::start(&bench, &[]);
    let again = "in the agent's log; the next run is in ";
    eventually("the next attempt is logged", || bench.agent_log().contains(again));
    agent.stop();
    // A script that was not started has changed nothing.
    bench.script("#!/no/such/interpreter\n");
    let (_, log) = bench.once(&[]);
    let told = log.lines().last().unwrap();
    assert!(told.ends_with("is not deployed; the state file is unchanged"), "{told}");
}

#[test]
fn carriage_return_in_the_interpreter_line_is_reported() {
    let bench = Bench::new();
    bench.first_configuration();
    for first in ["#!/bin/sh\r\n", "#!/usr/bin/env sh\r\n"] {
        bench.script(&format!("{first}echo\r\n"));
        let (code, log) = bench.once(&[]);
        assert_eq!(code, Some(i32::from(exit::FAILED)), "{log}");
        let told = "script \"./deploy.sh\": no such file or directory: the script's first line \
                    ends in a carriage return, as on Windows, and so names no interpreter; save \
                    the script with LF line ends, for example with dos2unix";
        assert!(log.lines().last().unwrap().contains(told), "{log}");
    }
}
