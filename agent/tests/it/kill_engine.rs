//! Kills the agent (`kill -9`) while it deploys, sweeps or makes a spare: with `-link auto` on
//! every filesystem of `DEPLOY_TEST_DIRS`, or otherwise with `hardlink` and `copy`. After each
//! kill, every visible name is complete, and the next agent deploys the right root.
//! `DEPLOY_TEST_KILLS` sets the number of kills (default 90). A failure prints its seed.
//! `DEPLOY_TEST_SEED` sets the seed.

#![allow(clippy::print_stdout, reason = "the test prints its kills")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::bench::{Bench, says, terminate};
use crate::random::{Random, number};
use deploy_store::{Configuration, Digest};
use deploy_testing::eventually;

/// Number of versions of the layer that changes.
const VERSIONS: u64 = 6;

/// The contents of a root: the kind and the mode of each path. Regular files also have their time
/// and contents, and symlinks also have their targets.
type Contents = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

fn contents(root: &Path) -> Contents {
    let mut found = Contents::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (time, bytes) = if meta.is_dir() {
                waiting.push(path.clone());
                (0, Vec::new())
            } else if meta.is_symlink() {
                (0, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                (meta.mtime(), fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(root).unwrap().into(), (meta.mode(), time, bytes));
        }
    }
    found
}

/// An agent that the test kills, a registry that keeps running, and the contents of each version's
/// root.
struct World {
    bench: Bench,
    flags: Vec<String>,
    log: BufReader<File>,
    agent: Child,
    roots: BTreeMap<String, Contents>,
}

impl World {
    fn new(dir: &Path, link: &str) -> Self {
        let bench = Bench::within(dir);
        bench.script("#!/bin/sh\ntest -s \"$NEWROOT/etc/version\"\n");
        let tree = bench.path("code");
        for n in 0..300 {
            let dir = tree.join(format!("lib/{}/{}", n % 7, n % 31));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("file{n}")), format!("{n}\n").repeat(n)).unwrap();
        }
        fs::hard_link(tree.join("lib/1/1/file1"), tree.join("lib/linked")).unwrap();
        symlink("1/1/file1", tree.join("lib/symlink")).unwrap();
        let mut roots = BTreeMap::new();
        let code = upload(&bench, "code", "v0");
        for version in 0..VERSIONS {
            let config = bench.path("config");
            fs::create_dir_all(config.join("etc")).unwrap();
            fs::write(config.join("etc/version"), format!("v{version}\n")).unwrap();
            // Some files are only in this layer. Other files replace files of the layer below. The
            // remaining files exist only in some versions.
            for n in 0..12 {
                let name = match n % 3 {
                    0 => format!("etc/conf{n}"),
                    1 => format!("lib/{}/{}/file{n}", n % 7, n % 31),
                    _ => format!("etc/{}/only{}", version % 2, n + version),
                };
                fs::create_dir_all(config.join(&name).parent().unwrap()).unwrap();
                fs::write(config.join(name), format!("{version} {n}\n").repeat(20)).unwrap();
            }
            let blob = upload(&bench, "config", &format!("v{version}"));
            let root = bench.path("expected");
            fs::create_dir(&root).unwrap();
            for blob in [&code, &blob] {
                run("tar", &["-xpf", blob, "-C", "expected"], &bench);
            }
            roots.insert(format!("v{version}"), contents(&root));
            for made in [root, config] {
                fs::remove_dir_all(made).unwrap();
            }
        }
        bench.operator("ssh", &["addconf -name project1 -layer code:v0 -layer config:v0"], "");
        let flags = ["-poll", "10ms", "-log-format", "json", "-cleanold", "-link", link];
        let flags: Vec<String> = flags.map(str::to_owned).into();
        File::create(bench.path("agent.log")).unwrap();
        let agent = start(&bench, &flags);
        let log = BufReader::new(File::open(bench.path("agent.log")).unwrap());
        let mut world = Self { bench, flags, log, agent, roots };
        world.await_event("spare_ready");
        world
    }

    /// Reads the log until the event appears.
    fn await_event(&mut self, event: &str) {
        let wanted = format!("\"event\":\"{event}\"");
        let mut line = String::new();
        eventually(event, || {
            let ended = self.log.read_line(&mut line).unwrap() > 0 && line.ends_with('\n');
            let found = ended && line.contains(&wanted);
            if ended {
                assert!(!line.contains("\"level\":\"error\""), "{line}");
                line.clear();
            }
            found
        });
    }

    fn kill(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        // The log so far comes from the killed agent, so the test skips that part.
        let mut past = String::new();
        while self.log.read_line(&mut past).unwrap() > 0 {}
    }

    /// Checks that every published root has the contents of its configuration.
    fn check_roots(&self) {
        for record in fs::read_dir(self.bench.path("a1/roots")).unwrap() {
            let Ok(json) = fs::read(record.unwrap().path()) else { continue };
            let Ok(configuration) = Configuration::from_json(&json) else { continue };
            let root = self.bench.path("a1/unpacked").join(configuration.id().to_string());
            if root.exists() {
                let version = configuration.layers()[1].version.as_str();
                assert!(contents(&root) == self.roots[version], "{version}: {}", root.display());
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The test ignores a failure, because the agent may already have ended.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn start(bench: &Bench, flags: &[String]) -> Child {
    let log = File::options().append(true).open(bench.path("agent.log")).unwrap();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    bench.agent(&flags).stderr(log).spawn().unwrap()
}

fn run(program: &str, arguments: &[&str], bench: &Bench) {
    let status = Command::new(program).args(arguments).current_dir(bench.temp.path()).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

/// Uploads a version of the component, from the directory of the same name. Returns the name of the
/// archive.
fn upload(bench: &Bench, component: &str, version: &str) -> String {
    let blob = format!("{component}-{version}.tar.gz");
    run("tar", &["--sort=name", "-czf", &blob, "-C", component, "."], bench);
    bench.operator("sftp", &[], &format!("put {blob}\n"));
    let digest = Digest::of(&fs::read(bench.path(&blob)).unwrap());
    let line = format!("addver -name {component} -version {version} -hash {digest}");
    bench.operator("ssh", &[&line], "");
    blob
}

fn kills_on(dir: &Path, link: &str, kills: u64, random: &mut Random) {
    let mut world = World::new(dir, link);
    let mut fell: BTreeMap<&str, u64> = BTreeMap::new();
    let mut target = 0;
    for _ in 0..kills {
        // The next target is a random other version. The root of the target may have been removed,
        // but the target's layer is still in the cache.
        target = (target + 1 + random.below(VERSIONS - 1)) % VERSIONS;
        let version = format!("v{target}");
        let command = format!("changeconf -name project1 -component config -version {version}");
        world.bench.operator("ssh", &[&command], "");
        let (event, wait, within) = match random.below(4) {
            0 => ("update_available", random.below(12_000), "a bump"),
            1 => ("root_ready", random.below(6_000), "script, state and sweep of roots"),
            2 => ("switched", random.below(30_000), "sweeps and the making of a spare"),
            _ => ("switched", 0, "a gc"),
        };
        world.await_event(event);
        let gc = (within == "a gc").then(|| {
            let mut gc = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
            gc.args(["gc", "-dir", "a1"]).current_dir(world.bench.temp.path());
            gc.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            gc.spawn().unwrap()
        });
        let wait = if gc.is_some() { random.below(60_000) } else { wait };
        std::thread::sleep(Duration::from_micros(wait));
        world.kill();
        if let Some(mut gc) = gc {
            // The test ignores the exit code, because the agent may have ended before it answered.
            gc.wait().unwrap();
        }
        *fell.entry(within).or_default() += 1;
        world.check_roots();

        world.agent = start(&world.bench, &world.flags);
        // From this event on, the agent handles signals.
        world.await_event("started");
        eventually("the next agent deploys the version", || {
            world.bench.state().is_some_and(|it| it.layers()[1].version.as_str() == version)
        });
        let id = world.bench.state().unwrap().id().to_string();
        let root = world.bench.path("a1/unpacked").join(id);
        assert!(contents(&root) == world.roots[&version], "{version}: {}", root.display());
        // In most rounds, the test waits for a spare, so the next deploy can use the spare.
        if random.below(3) > 0 {
            world.await_event("spare_ready");
        }
    }
    assert_eq!(terminate(&mut world.agent), Some(0));
    says(&world.bench, &["gc"], 0, "freed");
    says(&world.bench, &["verify"], 0, "all sound");
    let find = Command::new("find").arg("a1").current_dir(world.bench.temp.path()).output();
    let left = String::from_utf8(find.unwrap().stdout).unwrap();
    let half_done = |name: &&str| name.rsplit('/').next().unwrap().starts_with('.');
    assert_eq!(left.lines().filter(half_done).collect::<Vec<_>>(), [""; 0]);
    println!("{link} in {}: {fell:?}", dir.display());
}

#[test]
fn agent_deploys_the_right_root_after_a_kill() {
    let mut random = Random::start();
    let kills = number("DEPLOY_TEST_KILLS", 90);
    let dirs = std::env::var_os("DEPLOY_TEST_DIRS").unwrap_or_default();
    let mut places: Vec<(PathBuf, &str)> =
        std::env::split_paths(&dirs).filter(|dir| dir.is_dir()).map(|dir| (dir, "auto")).collect();
    if places.is_empty() {
        println!("DEPLOY_TEST_DIRS is not set: only the filesystem of temporary files is tested");
        places = ["hardlink", "copy"].map(|link| (std::env::temp_dir(), link)).into();
    }
    let each = kills.div_ceil(places.len() as u64);
    for (dir, link) in &places {
        kills_on(dir, link, each, &mut random);
    }
}
