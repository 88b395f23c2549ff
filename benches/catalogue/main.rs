//! Measures verbs of a registry for `scripts/bench-catalogue`. The registry has the catalogue that
//! `benches/catalogue/build` makes. Each verb runs first alone, and then in parallel with polls,
//! `gc` and changes.
//!
//! `deploy-catalogue ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID REPETITIONS SECONDS`
//!
//! The program prints tab-separated lines, from which `benches/catalogue/table` makes a table. It
//! prints the first errors of each kind to standard error.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program prints its results")]

mod background;
mod verb_steps;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deploy_benches::measured_registry::{Registry, exec, quantile};
use deploy_wire::client::Client;

use crate::background::{Agents, Background};
use crate::verb_steps::{VERBS, Verb};

/// The minimum number of repetitions of a verb. Until this number is reached, the repetitions may
/// take up to [`MUCH`] times the verb's time limit.
const FEWEST: u32 = 3;
/// The first [`FEWEST`] repetitions of a verb may take this many times the verb's time limit.
const MUCH: u32 = 5;
/// The maximum number of errors that are printed for one kind of work.
const SHOWN: usize = 3;
/// The number of errors so far, in all kinds of work.
static ERRORS: AtomicUsize = AtomicUsize::new(0);

/// The times and errors of one kind of work.
#[derive(Debug, Default)]
struct Seen {
    times: Mutex<Vec<Duration>>,
    errors: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, took: Duration, result: Result<(), String>) {
        match result {
            Ok(()) => self.times.lock().unwrap().push(took),
            Err(err) => {
                self.errors.lock().unwrap().push(err);
                ERRORS.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Measures one repetition of a verb.
    async fn measure(&self, client: &Client, verb: Verb, number: u32) {
        match verb.prepare(client, number).await {
            Err(err) => self.note(Duration::ZERO, Err(err)),
            Ok(step) => {
                let began = Instant::now();
                let result = exec(client, &step.line, &step.input).await;
                self.note(began.elapsed(), result);
            }
        }
    }

    fn errors(&self) -> usize {
        self.errors.lock().unwrap().len()
    }

    /// Prints a line with the kind, name, count, median, 99th percentile, longest time and number
    /// of errors. The times are in milliseconds.
    fn print(&self, kind: &str, name: &str) {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        times.sort_unstable();
        let [median, most, longest] = [0.5, 0.99, 1.0].map(|share| quantile(&times, share));
        let (count, errors) = (times.len(), std::mem::take(&mut *self.errors.lock().unwrap()));
        let failed = errors.len();
        println!("{kind}\t{name}\t{count}\t{median:.2}\t{most:.2}\t{longest:.2}\t{failed}");
        for err in errors.iter().take(SHOWN) {
            eprintln!("deploy-catalogue: {name}, {kind}: {}", err.trim());
        }
    }
}

/// Runs one verb once for each of `numbers`. `longest` is the time limit for the verb (see
/// [`FEWEST`]). The starts of two repetitions are at least `pause` apart.
async fn measure(
    client: &Client,
    verb: Verb,
    numbers: std::ops::Range<u32>,
    longest: Duration,
    pause: Duration,
) -> Seen {
    let (seen, began) = (Seen::default(), Instant::now());
    let mut next = tokio::time::interval(pause.max(Duration::from_nanos(1)));
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for (done, number) in (0..).zip(numbers) {
        let over = if done < FEWEST { longest * MUCH } else { longest };
        if done > 0 && began.elapsed() > over {
            break;
        }
        next.tick().await;
        seen.measure(client, verb, number).await;
        // If a verb always fails, its repetitions stop early, so that it does not use up its whole
        // time.
        if seen.errors() > SHOWN {
            break;
        }
    }
    seen
}

async fn all_verbs(client: &Client, kind: &str, round: u32, repetitions: u32, longest: Duration) {
    for (verb, name, most) in VERBS {
        let count = most.min(repetitions);
        let numbers = round * count..(round + 1) * count;
        // The pauses spread the repetitions. Otherwise, all repetitions of a fast verb would fall
        // into the same part of one `gc`.
        let pause = if round == 0 { Duration::ZERO } else { longest / count };
        measure(client, verb, numbers, longest, pause).await.print(kind, name);
    }
}

async fn run(registry: Registry, repetitions: u32, time: Duration) {
    let operator = registry.connect("operator").await.expect("the registry accepts operators");
    let agents = Agents::connect(&registry).await;
    let (polls, end) = (Arc::new(Seen::default()), Instant::now() + time);
    agents.poll(&polls, || Instant::now() >= end).await;
    polls.print("alone", "polls");
    all_verbs(&operator, "alone", 0, repetitions, time).await;

    let (background, began) = (Background::start(&registry, agents).await, Instant::now());
    all_verbs(&operator, "beside", 1, repetitions, time).await;
    tokio::time::sleep(time.saturating_sub(began.elapsed())).await;
    background.stop().await;
    let (_, most) = registry.memory();
    println!("memory\t{most}");
    let errors = ERRORS.load(Ordering::Relaxed);
    if errors > 0 {
        eprintln!("deploy-catalogue: {errors} errors");
        std::process::exit(1);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [addr, fingerprint, operator, agent, pid, repetitions, seconds] = &words[..] else {
        panic!("ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID REPETITIONS SECONDS");
    };
    let registry = Registry::new([addr, fingerprint, operator, agent, pid]);
    let repetitions = repetitions.parse().expect("a number of repetitions");
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let threads = tokio::runtime::Runtime::new().expect("threads");
    threads.block_on(run(registry, repetitions, time));
}
