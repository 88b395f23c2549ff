//! Does the steps of a run: actions of operators, machines and services, one after another.

use std::time::Duration;

use crate::dice::Dice;
use crate::fault::{Outcome, fault};
use crate::layers::COMPONENTS;
use crate::script::{Kill, Plan};
use crate::world::World;

type Step = fn(&mut World, &mut Dice) -> Outcome;

/// A kind of step: its name for `DEPLOY_TEST_WITHOUT`, its weight, and its function.
struct Stepping(&'static str, usize, Step);

const STEPS: [Stepping; 17] = [
    Stepping("hostile", 50, hostile),
    Stepping("bump", 24, bump),
    Stepping("again", 4, sync),
    Stepping("new", 2, new_version),
    Stepping("relabel", 3, relabel),
    Stepping("fail", 5, fail),
    Stepping("rollback", 5, rollback),
    Stepping("release", 3, release),
    Stepping("back", 3, registry_rollback),
    Stepping("gc", 3, gc),
    Stepping("kill", 4, kill),
    Stepping("restart", 2, restart),
    Stepping("away", 4, away),
    Stepping("repair", 2, repair),
    Stepping("relink", 1, relink),
    Stepping("forget", 1, forget),
    Stepping("lost-state", 1, lose_state),
];

/// Maximum number of versions of all components together.
const MOST_VERSIONS: usize = 30;

impl World {
    /// Does the step that the dice choose.
    pub fn step(&mut self, number: usize, dice: &mut Dice) -> Outcome {
        let may = |step: &&Stepping| !crate::is_without(step.0);
        let steps: Vec<&Stepping> = STEPS.iter().filter(may).collect();
        let weight = |step: &Stepping| crate::weight(step.0, step.1);
        let mut at = dice.below(steps.iter().map(|step| weight(step)).sum());
        let step = steps.into_iter().find(|step| {
            let found = at < weight(step);
            at = at.saturating_sub(weight(step));
            found
        });
        let Stepping(name, _, step) = step.unwrap();
        self.say(format!("step {number}: {name}"));
        step(self, dice)?;
        self.check()
    }

    /// Ends a step that deploys. In most cases, the test waits until the agent is idle.
    fn after(&mut self, dice: &mut Dice) -> Outcome {
        if crate::is_without("races") || dice.percent(75) { self.idle() } else { Ok(()) }
    }

    /// Changes the registry's configuration to this version of a component. Returns whether the
    /// change succeeded.
    pub fn change(&mut self, component: usize, label: &str) -> bool {
        let name = COMPONENTS[component];
        let line = format!("changeconf -name project1 -component {name} -version {label}");
        match self.operator(&line, b"") {
            Ok(_) => {
                label.clone_into(&mut self.offered[component]);
                self.say(format!("  the registry wants {}", self.offered.join(" ")));
                true
            }
            Err(err) => {
                self.say(format!("  the registry refuses {label}: {err}"));
                false
            }
        }
    }

    /// Changes the registry's configuration to another version of a component.
    fn change_something(&mut self, dice: &mut Dice) {
        let component = [0, 1, 1, 2][dice.below(4)];
        let now = self.version(&self.offered[component]);
        let others: Vec<String> = self
            .pool
            .iter()
            .enumerate()
            .filter(|(n, version)| version.component == component && *n != now)
            .map(|(_, version)| version.labels[0].clone())
            .collect();
        let label = dice.pick(&others).unwrap().clone();
        self.change(component, &label);
    }
}

fn plan(dice: &mut Dice) -> Plan {
    let acts = [0, 0, 1, 1, 2, 3][dice.below(6)];
    Plan { acts, dice: Some(dice.clone()), ..Plan::default() }
}

fn hostile(world: &mut World, dice: &mut Dice) -> Outcome {
    world.hostile(dice, None);
    world.check()
}

fn sync(world: &mut World, dice: &mut Dice) -> Outcome {
    let plan = plan(dice);
    world.sync(plan)?;
    world.after(dice)
}

fn bump(world: &mut World, dice: &mut Dice) -> Outcome {
    world.change_something(dice);
    sync(world, dice)
}

fn new_version(world: &mut World, dice: &mut Dice) -> Outcome {
    if world.pool.len() >= MOST_VERSIONS {
        return bump(world, dice);
    }
    let component = dice.below(COMPONENTS.len());
    let layer = world.of(component).last().unwrap().layer.next(dice);
    world.add(component, layer);
    let label = world.of(component).last().unwrap().labels[0].clone();
    world.change(component, &label);
    sync(world, dice)
}

/// Deploys the same tree under another version name.
fn relabel(world: &mut World, dice: &mut Dice) -> Outcome {
    let component = dice.below(COMPONENTS.len());
    let labels = &world.pool[world.version(&world.offered[component])].labels;
    let other = labels.iter().find(|label| **label != world.offered[component]).unwrap().clone();
    world.change(component, &other);
    sync(world, dice)
}

/// Makes a script fail, and then imitates the reaction of operators.
fn fail(world: &mut World, dice: &mut Dice) -> Outcome {
    let good = world.offered.clone();
    world.change_something(dice);
    let failing = Plan { code: 1, ..plan(dice) };
    world.sync(failing)?;
    match dice.below(3) {
        0 => {}
        1 => {
            world.hostile(dice, None);
            return sync(world, dice);
        }
        _ => {
            for (component, label) in good.iter().enumerate() {
                if world.offered[component] != *label {
                    world.change(component, label);
                }
            }
            return sync(world, dice);
        }
    }
    Ok(())
}

fn rollback(world: &mut World, dice: &mut Dice) -> Outcome {
    let code = u8::from(dice.percent(15));
    let plan = Plan { code, ..plan(dice) };
    world.rollback(plan)?;
    world.after(dice)
}

fn release(world: &mut World, dice: &mut Dice) -> Outcome {
    if world.ask(r#"{"request":"release"}"#)?.is_none() {
        return fault("the agent ended", "during a release");
    }
    world.may_be_held = false;
    sync(world, dice)
}

fn registry_rollback(world: &mut World, dice: &mut Dice) -> Outcome {
    match world.operator("rollback -name project1", b"") {
        Ok(_) => {
            world.read_offer();
            world.say(format!("  the registry returns to {}", world.offered.join(" ")));
        }
        Err(err) => world.say(format!("  the registry cannot roll back: {err}")),
    }
    sync(world, dice)
}

fn gc(world: &mut World, _: &mut Dice) -> Outcome {
    match world.ask(r#"{"request":"gc","dry_run":false}"#)? {
        Some(answer) => {
            let (code, error) = (answer["code"].as_u64(), answer["error"].to_string());
            world.say(format!("  gc: {code:?} {error}"));
            Ok(())
        }
        None => fault("the agent ended", "during a gc"),
    }
}

fn kill(world: &mut World, dice: &mut Dice) -> Outcome {
    let soon = Duration::from_micros(u64::try_from(dice.below(40_000)).unwrap());
    let after = Duration::from_micros(u64::try_from(dice.below(8_000)).unwrap());
    let kind = dice.below(6);
    if kind == 0 {
        world.kill();
        world.hostile(dice, None);
        return world.recover();
    }
    if kind < 5 {
        world.change_something(dice);
    }
    let kill = [Kill::Soon(soon), Kill::Soon(soon), Kill::AtScript, Kill::AfterScript(after)]
        [(kind - 1) % 4];
    let code = u8::from(dice.percent(20));
    let plan = Plan { code, kill, ..plan(dice) };
    if kind == 5 {
        world.rollback(plan)?;
    } else {
        world.sync(plan)?;
    }
    if world.agent.is_none() {
        world.recover()?;
    }
    world.check()?;
    if dice.percent(70) { sync(world, dice) } else { Ok(()) }
}

/// Runs `verify -repair`, which never changes a root. If a script has failed, the agent's next poll
/// runs the script again.
fn repair(world: &mut World, dice: &mut Dice) -> Outcome {
    world.subcommand(&["verify", "-repair"]);
    sync(world, dice)
}

/// Stops the agent, calls `meanwhile`, and starts the agent again.
fn stopped(world: &mut World, meanwhile: impl FnOnce(&mut World)) -> Outcome {
    if let Some(mut agent) = world.agent.take() {
        let code = crate::bench::terminate(&mut agent);
        if code != Some(0) {
            return fault("restart", format!("the agent ends with {code:?} after TERM"));
        }
    }
    meanwhile(world);
    world.recover()
}

fn restart(world: &mut World, dice: &mut Dice) -> Outcome {
    let (first, second) = (dice.below(4), dice.percent(50));
    stopped(world, |world| match first {
        0 | 1 => world.hostile(dice, None),
        2 => world.subcommand(&["gc"]),
        _ => {}
    })?;
    if second { sync(world, dice) } else { Ok(()) }
}

/// Restarts the agent with another value of `-link`, or with the first value again.
fn relink(world: &mut World, dice: &mut Dice) -> Outcome {
    let first = world.link.clone();
    let at = world.flags.iter().position(|flag| flag == "-link").unwrap() + 1;
    let other = if world.flags[at] == first { ["copy", "hardlink"][dice.below(2)] } else { &first };
    other.clone_into(&mut world.flags[at]);
    world.say(format!("  -link {other}"));
    stopped(world, |_| {})?;
    bump(world, dice)
}

/// Removes the records of the roots, the extracted layers, or both, as if the agent took over a
/// directory of the Go tool.
fn forget(world: &mut World, dice: &mut Dice) -> Outcome {
    let lost: &[&str] =
        [&["roots"][..], &["objects", "layers"], &["objects", "layers", "roots"]][dice.below(3)];
    stopped(world, |world| {
        for name in lost {
            let _ = std::fs::remove_dir_all(world.agent_dir().join(name));
        }
        world.say(format!("  lost: {}", lost.join(" ")));
    })?;
    sync(world, dice)
}

fn lose_state(world: &mut World, dice: &mut Dice) -> Outcome {
    stopped(world, |world| {
        let _ = std::fs::remove_file(world.bench.path("state.json"));
    })?;
    sync(world, dice)
}

/// Stops the registry for some time.
fn away(world: &mut World, dice: &mut Dice) -> Outcome {
    world.stop_registry();
    for _ in 0..=dice.below(3) {
        match dice.below(5) {
            0 => {
                let plan = plan(dice);
                world.sync(plan)?;
            }
            1 | 2 => {
                let plan = plan(dice);
                world.rollback(plan)?;
            }
            3 => {
                world.kill();
                world.recover()?;
            }
            _ => world.hostile(dice, None),
        }
        world.check()?;
    }
    world.start_registry();
    // From now on, the agent may poll on its own at any time, so the test makes the agent poll at
    // once.
    sync(world, dice)
}
