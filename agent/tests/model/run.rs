//! Runs the test in all places. Each run has a seed and a number of steps.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::dice::Dice;
use crate::fault::{Fault, Outcome, fault};
use crate::number;
use crate::script::Plan;
use crate::shrink;
use crate::world::{Place, World};

/// Default number of steps in each place.
const STEPS: u64 = 300;
/// Maximum number of lines about steps that the test prints for a fault.
const SHOWN: usize = 60;

/// The result of a run.
pub struct Ended {
    pub fault: Option<Fault>,
    /// The number of the last step.
    pub step: usize,
    /// The last steps, the end of the agent's log, and the agent's flags. Empty if the run found no
    /// fault.
    pub said: String,
    pub scripts: usize,
}

/// Whether files in the directory can share extents.
pub fn has_reflinks(dir: &Path) -> bool {
    let temp = tempfile::tempdir_in(dir).unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::write(&from, "from").unwrap();
    let to = File::create(to).unwrap();
    rustix::fs::ioctl_ficlone(to, File::open(from).unwrap()).is_ok()
}

/// Runs the test in all places, several places at a time. Returns a text for each run with a fault.
pub fn everywhere(places: &[Place], who: &str) -> Vec<String> {
    let seed = number("DEPLOY_TEST_SEED");
    let steps = usize::try_from(number("DEPLOY_TEST_STEPS").unwrap_or(STEPS)).unwrap();
    // An ordinary user can make fewer kinds of changes, so a quarter of the steps is enough.
    let steps = if who == "user" { steps.div_ceil(4) } else { steps };
    let jobs = number("DEPLOY_TEST_JOBS").unwrap_or(2);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(place) = places.get(n) else { return };
                    // Without `DEPLOY_TEST_SEED`, each place has its own seed, which is the same in
                    // every run.
                    let seed = seed.unwrap_or(n as u64 + 1);
                    if let Some(text) = one(place, seed, steps, who) {
                        found.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn one(place: &Place, seed: u64, steps: usize, who: &str) -> Option<String> {
    let started = Instant::now();
    let only = std::env::var("DEPLOY_TEST_ONLY").ok();
    let all: Vec<usize> = match only {
        Some(list) => list.split(',').map(|n| n.parse().expect("a number")).collect(),
        None => (1..=steps).collect(),
    };
    let ended = run(place, seed, &all);
    let (dir, link) = (place.dir.display(), &place.link);
    let seconds = started.elapsed().as_secs_f32();
    let at = format!("{who} {link} in {dir}, seed {seed}");
    let Some(fault) = ended.fault else {
        println!("{at}: {} steps, {} scripts, {seconds:.1} s", all.len(), ended.scripts);
        return None;
    };
    let mut text = format!(
        "{at}: FAULT at step {} after {seconds:.1} s: {}: {}\n",
        ended.step, fault.kind, fault.what
    );
    let _ = writeln!(
        text,
        "to repeat: DEPLOY_TEST_DIRS={dir} DEPLOY_TEST_LINKS={link} DEPLOY_TEST_SEED={seed} DEPLOY_TEST_STEPS={}; \
         with DEPLOY_TEST_SHRINK=1 the test looks for the fewest steps that fail",
        ended.step
    );
    println!("{}{text}", ended.said);
    if number("DEPLOY_TEST_SHRINK").is_some() {
        let before: Vec<usize> = all.into_iter().take_while(|n| *n <= ended.step).collect();
        let fewest = shrink::fewest(&before, |steps| {
            run(place, seed, steps).fault.is_some_and(|it| it.kind == fault.kind)
        });
        let ended = run(place, seed, &fewest);
        let list: Vec<String> = fewest.iter().map(ToString::to_string).collect();
        println!("{}{at}: the fewest steps: DEPLOY_TEST_ONLY={}", ended.said, list.join(","));
        let what = ended.fault.map_or_else(String::new, |it| format!("{}: {}", it.kind, it.what));
        println!("{what}");
    }
    Some(text)
}

/// Does these steps. Each step has dice of its own. Therefore, as far as possible, a step makes the
/// same choices even if other steps are left out.
pub fn run(place: &Place, seed: u64, steps: &[usize]) -> Ended {
    let mut world = World::new(place, seed);
    let mut at = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| all(&mut world, seed, steps, &mut at)));
    let fault = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Some(Fault::of("the test itself", text.unwrap_or_default()))
        }
    };
    let mut said = String::new();
    if fault.is_some() {
        let lines: Vec<&String> = world.said.iter().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            let _ = writeln!(said, "{line}");
        }
        let log = world.agent_log();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(25)..] {
            let _ = writeln!(said, "    {line}");
        }
        let _ = writeln!(said, "    flags: {}", world.flags.join(" "));
    }
    if std::env::var_os("DEPLOY_TEST_KEEP").is_some() && fault.is_some() {
        world.bench.temp.disable_cleanup(true);
    }
    Ended { fault, step: at, said, scripts: world.scripts }
}

fn all(world: &mut World, seed: u64, steps: &[usize], at: &mut usize) -> Outcome {
    world.say("first deploy");
    world.start()?;
    world.sync(Plan::default())?;
    for &step in steps {
        *at = step;
        world.step(step, &mut Dice::of(seed, step as u64))?;
    }
    at_last(world)
}

/// Removes everything that prevents a deploy. Then checks that the agent deploys, and that no
/// unused files are left in `unpacked`.
fn at_last(world: &mut World) -> Outcome {
    world.say("at last");
    world.release();
    crate::bench::terminate(&mut world.agent.take().unwrap());
    world.recover()?;
    if world.ask(r#"{"request":"release"}"#)?.is_none() {
        return fault("the agent ended", "during a release");
    }
    world.may_be_held = false;
    world.sync(Plan::default())?;
    for component in [0, 1] {
        let now = world.version(&world.offered[component]);
        let other = world.of(component).find(|it| it.labels != world.pool[now].labels).unwrap();
        let label = other.labels[0].clone();
        world.change(component, &label);
        world.sync(Plan::default())?;
    }
    world.idle()?;
    world.check()?;
    world.ask(r#"{"request":"gc","dry_run":false}"#)?;
    left_over(world)
}

fn left_over(world: &World) -> Outcome {
    let mut found = BTreeSet::new();
    for item in fs::read_dir(world.agent_dir().join("unpacked")).unwrap() {
        let name = item.unwrap().file_name().into_string().unwrap();
        let is_root = name.strip_suffix(".ok").unwrap_or(&name).len() == 64;
        if !is_root && !name.starts_with(".spare") {
            found.insert(name);
        }
    }
    if found.is_empty() { Ok(()) } else { fault("left over", format!("{found:?}")) }
}
