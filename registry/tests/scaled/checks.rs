//! Checks what each registry has against the ledger, and the roots of the agents against the
//! history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use deploy_store::Digest;
use deploy_wire::exit;
use serde_json::Value;
use tokio::time::sleep;

use crate::access::{Access, Answer, At, Download};
use crate::ledger::{Ledger, Outcome, Version};
use crate::processes::Agent;
use crate::world::{ROLLED_COMPONENT, World, component, first_version};
use crate::{CONFIGURATIONS, LIMIT, OPERATORS, REGISTRIES, ROLLED, blobs};

const WAIT: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(200);

/// A state of a configuration.
#[derive(Debug)]
struct State {
    number: u64,
    id: String,
    command: String,
}

/// Asks one registry until it carries the command out.
pub async fn ask(access: &Access, at: At, line: &str) -> String {
    let began = Instant::now();
    loop {
        match access.ask(at, line, WAIT).await {
            Answer::Done(said) => return said,
            Answer::Refused(code @ (exit::NOT_FOUND | exit::CONFLICT | exit::CORRUPT), why) => {
                panic!("{line} at {at:?}: {code} {why}")
            }
            answer => assert!(began.elapsed() < LIMIT, "{line} at {at:?}: {answer:?}"),
        }
        sleep(PAUSE).await;
    }
}

/// The states of a configuration at one registry, oldest first.
async fn history(access: &Access, at: At, name: &str) -> Vec<State> {
    let said = ask(access, at, &format!("history -name {name} -limit 1000000 -json")).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let states = shown["states"].as_array().unwrap().iter().rev();
    let state = |state: &Value| State {
        number: state["number"].as_u64().unwrap(),
        id: text(&state["hash"]),
        command: text(&state["command"]),
    };
    states.map(state).collect()
}

/// The versions that a command names.
fn versions_in(command: &str) -> Vec<&str> {
    command.split([' ', ':']).filter(|word| word.starts_with("v-")).collect()
}

/// Checks that the history has each acknowledged change once, and each change with an unknown result
/// at most once.
fn check_history(states: &[State], before: &BTreeMap<String, Outcome>, at: At, name: &str) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    // The first state was made by addconf.
    for state in &states[1..] {
        let versions = versions_in(&state.command);
        assert_eq!(versions.len(), 1, "{name}: {state:?}");
        *counts.entry(versions[0]).or_default() += 1;
    }
    for (version, outcome) in before {
        let count = counts.get(version.as_str()).copied().unwrap_or(0);
        let is_right = match outcome {
            Outcome::Done => count == 1,
            Outcome::Unknown => count <= 1,
        };
        assert!(is_right, "{name} at {at:?}: {version} is {outcome:?}, and was made {count} times");
    }
}

/// The names of the files in the root of each state, in order, by the state's id.
fn roots(states: &[State], name: &str, ledger: &Ledger) -> Vec<(String, Vec<String>)> {
    let ledger = ledger.open();
    let first: Vec<String> = if name == ROLLED {
        vec![ROLLED_COMPONENT.to_owned()]
    } else {
        (0..OPERATORS).map(component).collect()
    };
    let mut layers: BTreeMap<String, String> =
        first.into_iter().map(|of| (of.clone(), first_version(&of))).collect();
    let mut found = Vec::new();
    for (n, state) in states.iter().enumerate() {
        if n > 0 {
            let version = versions_in(&state.command)[0];
            let of = version.split('-').nth(1).unwrap();
            layers.insert(of.to_owned(), version.to_owned());
        }
        let texts: BTreeSet<String> =
            layers.values().map(|version| blobs::name(ledger.texts[version])).collect();
        found.push((state.id.clone(), texts.into_iter().collect()));
    }
    found
}

/// Checks the roots that an agent has deployed, in their order. The history is newer.
fn check_agent(agent: &Agent, deployed: &[(String, Vec<String>)], roots: &[(String, Vec<String>)]) {
    let mut last = 0;
    for (id, files) in deployed {
        let at = roots.iter().position(|(of, _)| of == id);
        let at = at.unwrap_or_else(|| panic!("{:?} has {id}, which no state has", agent.dir));
        assert_eq!(files, &roots[at].1, "{:?}: the files of {id}", agent.dir);
        assert!(at >= last, "{:?} went back from state {last} to {at}", agent.dir);
        last = at;
    }
    // The agent may remove the root at this moment, but it never changes the files of a root.
    if let Some((id, files)) = deployed.last()
        && let Some(now) = agent.files_of(id)
        && now != *files
        && agent.deployed().last().is_some_and(|(last, _)| last == id)
    {
        panic!("{:?}: the root {id} has {now:?}, not {files:?}", agent.dir);
    }
}

/// Checks the histories of all configurations at each registry, and the roots of all agents.
pub async fn check_changes(world: &mut World, ledger: &Ledger) {
    for name in CONFIGURATIONS.into_iter().chain([ROLLED]) {
        for number in 0..REGISTRIES {
            let before = ledger.open().changes.get(name).cloned().unwrap_or_default();
            let agents = world.agents.iter().filter(|agent| agent.configuration == name);
            let deployed: Vec<_> = agents.map(|agent| (agent, agent.deployed())).collect();
            let states = history(&world.access, At::One(number), name).await;
            check_history(&states, &before, At::One(number), name);
            let in_order = states.is_sorted_by(|one, next| one.number < next.number);
            assert!(in_order, "{states:?}");
            let roots = roots(&states, name, ledger);
            for (agent, deployed) in &deployed {
                check_agent(agent, deployed, &roots);
            }
        }
    }
    for agent in &mut world.agents {
        assert!(agent.is_running(), "an agent has ended: {}", agent.tail());
    }
}

/// Downloads each required version from a registry, and checks its bytes. `of` chooses the versions.
pub async fn check_versions(
    world: &World,
    ledger: &Ledger,
    at: At,
    mut of: impl FnMut(&Version) -> bool,
) -> usize {
    let mut checked = 0;
    let components = ledger.open().components();
    for component in components {
        let required = ledger.open().required(&component);
        for version in required {
            if of(&version) {
                check_version(&world.access, ledger, at, &component, &version).await;
                checked += 1;
            }
        }
    }
    checked
}

async fn check_version(
    access: &Access,
    ledger: &Ledger,
    at: At,
    component: &str,
    version: &Version,
) {
    let began = Instant::now();
    loop {
        match access.download(at, version.digest).await {
            Download::Bytes(bytes) => {
                assert_eq!(Digest::of(&bytes), version.digest, "{version:?} at {at:?}");
                return;
            }
            // A version that is no longer required may be gone by now.
            _ if !ledger.open().is_required(component, &version.name) => return,
            Download::Missing(why) => panic!("{version:?} is lost at {at:?}: {why}"),
            Download::Failed(why) => {
                let in_time = began.elapsed() < LIMIT;
                assert!(in_time, "{version:?} cannot be read at {at:?}: {why}");
            }
        }
        sleep(PAUSE).await;
    }
}

/// Waits until all agents have the current states of their configurations, and the registries know.
pub async fn agents_catch_up(world: &World) {
    for agent in &world.agents {
        let began = Instant::now();
        loop {
            let states = history(&world.access, At::Any, agent.configuration).await;
            let newest = states.last().map(|state| state.id.clone());
            if agent.deployed().last().map(|(id, _)| id.clone()) == newest {
                break;
            }
            let in_time = began.elapsed() < LIMIT;
            assert!(in_time, "{:?} does not catch up: {}", agent.dir, agent.tail());
            sleep(PAUSE).await;
        }
    }
    for name in CONFIGURATIONS.into_iter().chain([ROLLED]) {
        for number in 0..REGISTRIES {
            let line = format!("wait -name {name} -timeout 20s -json");
            ask(&world.access, At::One(number), &line).await;
        }
    }
}

/// Runs gc until only live objects are left.
pub async fn collect_all(world: &World) {
    let began = Instant::now();
    for number in (0..REGISTRIES).cycle() {
        ask(&world.access, At::One(number), "gc -q").await;
        let stat = ask(&world.access, At::One(number), "stat -json").await;
        let stat: Value = serde_json::from_str(&stat).unwrap();
        let objects = stat["bucket"]["objects"].as_object().unwrap();
        let mut others = objects.iter().filter(|(state, _)| *state != "live");
        if others.all(|(_, count)| count["files"] == 0) {
            return;
        }
        assert!(began.elapsed() < LIMIT, "gc leaves objects: {}", stat["bucket"]);
        sleep(Duration::from_secs(1)).await;
    }
}

/// Checks that each object that something needs has its right bytes in the bucket. An object without
/// a row is no damage: the server may have carried out a write after the registry had given it up.
pub async fn check_bucket(world: &World) {
    for number in 0..REGISTRIES {
        let verified = ask(&world.access, At::One(number), "verify -q -json").await;
        let verified: Value = serde_json::from_str(&verified).unwrap();
        let findings = verified["findings"].as_array().unwrap();
        assert!(findings.iter().all(|finding| finding["kind"] == "foreign"), "{verified}");
        assert_eq!(verified["complete"], true, "{verified}");
    }
}
