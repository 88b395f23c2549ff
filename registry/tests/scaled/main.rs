//! Runs three registries on one private `PostgreSQL` and one private bucket, with operators and
//! agents, and kills or freezes registries and servers at random. Nothing that a registry has
//! acknowledged is lost or done twice, and no agent deploys anything else than a state of its
//! configuration.
//!
//! `DEPLOY_TEST_STEPS` is the number of failures, and `DEPLOY_TEST_SEED` the seed. The seed repeats
//! the choices of each operator and of the failures, but not the order in which they happen.

#![allow(clippy::print_stdout, reason = "the test prints the seed, and the log of a failure")]

mod access;
mod blobs;
mod checks;
mod dice;
mod kills;
mod ledger;
mod operator;
mod processes;
mod rollouts;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::access::At;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::operator::Operator;
use crate::world::{ROLLED_COMPONENT, World, component};

const REGISTRIES: usize = 3;
const OPERATORS: usize = 3;
/// The configurations that operators change.
const CONFIGURATIONS: [&str; 2] = ["p", "q"];
/// The configuration that gets rollouts.
const ROLLED: &str = "rolled";
/// The flag `-grace` of the registries.
const GRACE: Duration = Duration::from_secs(10);
/// How long a request may fail before the test fails.
const LIMIT: Duration = Duration::from_secs(90);

/// The running operators. Each returns how many rollouts it has made.
struct Working {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<usize>>,
}

/// Prints the log, if the test fails.
struct Report {
    seed: u64,
    ledger: Arc<Ledger>,
}

impl Drop for Report {
    fn drop(&mut self) {
        println!("DEPLOY_TEST_SEED={}: {:?}", self.seed, self.ledger.open().done);
        if std::thread::panicking() {
            self.ledger.log().iter().for_each(|line| println!("  {line}"));
        }
    }
}

impl Working {
    fn start(threads: &Runtime, world: &World, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let operator = |component: String, number: u64| Operator {
            component,
            access: world.access.clone(),
            ledger: Arc::clone(ledger),
            dice: Dice::new(seed + number),
            next: 1,
            is_doubtful: false,
        };
        let mut tasks = Vec::new();
        for (number, name) in (1..).zip((0..OPERATORS).map(component)) {
            let (operator, stop) = (operator(name, number), Arc::clone(&stop));
            tasks.push(threads.spawn(async move {
                operator.run(stop).await;
                0
            }));
        }
        let rolls = operator(ROLLED_COMPONENT.to_owned(), 100);
        tasks.push(threads.spawn(rollouts::run(rolls, Arc::clone(&stop))));
        Self { stop, tasks }
    }

    /// Fails if an operator has failed.
    fn check(&mut self, threads: &Runtime) {
        while let Some(at) = self.tasks.iter().position(JoinHandle::is_finished) {
            let ended = threads.block_on(self.tasks.swap_remove(at));
            panic!("an operator has ended: {ended:?}");
        }
    }

    /// Waits until all operators have ended. Returns the number of rollouts.
    fn end(self, threads: &Runtime) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.into_iter().map(|task| threads.block_on(task).unwrap()).sum()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// One failure, and the checks after it.
fn step(world: &mut World, threads: &Runtime, ledger: &Ledger, dice: &mut Dice) {
    std::thread::sleep(dice.time(1_500));
    let kills = kills::strike(world, dice);
    ledger.note(format!("== {kills:?}"));
    for registry in &mut world.registries {
        assert!(registry.is_well(), "a registry has ended by itself: {}", registry.tail());
    }
    threads.block_on(async {
        checks::check_changes(world, ledger).await;
        let at = At::One(dice.throw(REGISTRIES));
        checks::check_versions(world, ledger, at, |_| dice.throw(4) == 0).await;
    });
}

/// The checks at the end, when all programs and the network work, and nothing changes.
async fn check_end(world: &mut World, ledger: &Ledger, rollouts: usize) {
    checks::agents_catch_up(world).await;
    checks::check_changes(world, ledger).await;
    for number in 0..REGISTRIES {
        let checked = checks::check_versions(world, ledger, At::One(number), |_| true).await;
        assert!(checked >= OPERATORS, "only {checked} versions were checked");
    }
    checks::check_bucket(world).await;
    checks::collect_all(world).await;
    checks::check_bucket(world).await;
    for number in 0..REGISTRIES {
        checks::check_versions(world, ledger, At::One(number), |_| true).await;
    }
    let waves = checks::ask(&world.access, At::Any, "events -name rolled -limit 100000").await;
    let waves = waves.lines().filter(|line| line.contains("rollout_wave")).count();
    assert_eq!(waves, rollouts * rollouts::WAVES, "each wave opens once");
}

#[test]
fn nothing_acknowledged_is_lost_when_registries_and_servers_are_killed() {
    let seed = number("DEPLOY_TEST_SEED", std::process::id().into());
    let steps = number("DEPLOY_TEST_STEPS", 20);
    println!("DEPLOY_TEST_SEED={seed}, {steps} failures");
    let Some(mut world) = World::start(seed) else { return };
    let ledger = Arc::new(Ledger::new());
    let _report = Report { seed, ledger: Arc::clone(&ledger) };
    let threads = Runtime::new().unwrap();
    threads.block_on(world.fill(&ledger));
    let mut working = Working::start(&threads, &world, &ledger, seed);
    let mut dice = Dice::new(seed);
    for _ in 0..steps {
        step(&mut world, &threads, &ledger, &mut dice);
        working.check(&threads);
    }
    world.heal();
    let rollouts = working.end(&threads);
    for registry in &mut world.registries {
        registry.kill();
        registry.empty_cache();
        registry.start();
    }
    threads.block_on(check_end(&mut world, &ledger, rollouts));
}
