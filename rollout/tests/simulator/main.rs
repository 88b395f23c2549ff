//! Simulates rollouts over random fleets, with random operators and a virtual clock. A judge with
//! its own code for the rules checks each decision.
//!
//! The driver in this test replaces the registry, but has no database. The driver applies the
//! changes of a step one by one, and may be killed between any two of them. A killed driver loses
//! the remaining changes. Hosts die, disconnect, fail, become healthy late or never, join, leave,
//! and are held or duplicate. A restart of the registry disconnects all hosts.
//!
//! | variable | meaning |
//! |---|---|
//! | `DEPLOY_TEST_STEPS` | the number of fleets (default: 2,000) |
//! | `DEPLOY_TEST_SEED` | the seed of the first fleet; each further fleet has the next number |
//! | `DEPLOY_TEST_LOG=1` | prints the log of each fleet |

#![allow(clippy::print_stdout, reason = "the test prints its seed, counts, and the log of a fault")]

mod agent;
mod daily_window;
mod dice;
mod events;
mod judge;
mod justice;
mod operator;
mod random_fleet;
mod registry;
mod sizes;
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use world::World;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Simulates one fleet. Returns the final status as one word, and the log.
fn run(seed: u64) -> (String, Vec<String>) {
    let mut world = World::random(seed);
    let fault = world.run().err();
    let show = std::env::var_os("DEPLOY_TEST_LOG").is_some();
    if show || fault.is_some() {
        let from = if show { 0 } else { world.log.len().saturating_sub(60) };
        println!("{}", world.log[from..].join("\n"));
    }
    if let Some(fault) = fault {
        let policy = &world.rollout.policy;
        panic!("{fault}\n{policy:?}\nagain: DEPLOY_TEST_SEED={seed} DEPLOY_TEST_STEPS=1");
    }
    (world.rollout.status.word().to_owned(), world.log)
}

#[test]
fn every_fleet_ends_in_a_decision_and_no_step_breaks_a_rule() {
    let fleets = number("DEPLOY_TEST_STEPS", 2_000);
    let first = number("DEPLOY_TEST_SEED", 20_261_129);
    let began = Instant::now();
    let mut ends = BTreeMap::<String, u64>::new();
    for seed in first..first + fleets {
        *ends.entry(run(seed).0).or_default() += 1;
    }
    let seconds = began.elapsed().as_secs_f32();
    println!("{fleets} fleets from DEPLOY_TEST_SEED={first} in {seconds:.1} s: {ends:?}");
    // If one of these results is rare, the simulation tests too little.
    if fleets >= 1_000 {
        for end in ["aborted", "halted", "succeeded", "superseded"] {
            assert!(ends.get(end).is_some_and(|count| count * 50 > fleets), "{end}: {ends:?}");
        }
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    for seed in 1..=40 {
        assert_eq!(run(seed), run(seed));
    }
}
