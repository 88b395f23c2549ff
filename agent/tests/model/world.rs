//! Runs a registry and an agent as real programs, on one filesystem and with one link mode. This
//! module also has a model of the expected state of both programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use deploy_store::Configuration;
use deploy_wire::client::{Client, Connect, HostKey, Keys};
use rustix::fs::{Mode, OFlags};

use crate::bench::{Bench, start_registry_with};
use crate::canary::{Canaries, Mapper};
use crate::dice::Dice;
use crate::events::Events;
use crate::fault::{Fault, Outcome, fault};
use crate::layers::{COMPONENTS, Layer};
use crate::script::Plan;
use crate::tree::{Tree, Who, merge};

/// The directory of a world, and the link mode of its agent.
#[derive(Debug, Clone)]
pub struct Place {
    pub dir: PathBuf,
    pub link: String,
}

/// A version of a component. Each version has two names.
pub struct Version {
    pub component: usize,
    pub layer: Layer,
    pub labels: [String; 2],
}

/// A root that the script has seen.
pub struct Known {
    /// Numbers of the versions in the root.
    pub versions: Vec<usize>,
    /// The open directory of the root. While the directory is open, no other directory gets its
    /// inode number.
    pub dir: OwnedFd,
}

/// A file that a service has open for writing.
pub enum Open {
    File(File),
    Mapping(usize),
}

pub struct World {
    /// The value of `-link` at the start of the run.
    pub link: String,
    pub bench: Bench,
    pub who: Who,
    pub flags: Vec<String>,
    runtime: tokio::runtime::Runtime,
    client: Option<Client>,
    pub pool: Vec<Version>,
    trees: BTreeMap<Vec<usize>, Rc<Tree>>,
    /// Names of the versions in the registry's configuration.
    pub offered: Vec<String>,
    pub registry_is_up: bool,
    pub agent: Option<Child>,
    pub events: Events,
    pub canaries: Canaries,
    pub mapper: Option<Mapper>,
    /// The files and directories that are immutable or append-only, each open.
    pub flagged: Vec<(File, PathBuf)>,
    pub open: Vec<(Open, PathBuf)>,
    /// The roots that scripts have seen, by id.
    pub roots: BTreeMap<String, Known>,
    /// Id of the deployed configuration; `None` before the first deploy.
    pub deployed: Option<String>,
    /// Whether the agent's state is certain, because the test has not killed the agent since its
    /// last successful `sync`.
    pub is_certain: bool,
    /// Whether there was a rollback whose hold may still apply.
    pub may_be_held: bool,
    /// Names of the versions that the last script deployed, and the script's exit code.
    pub last_script: Option<(Vec<String>, u8)>,
    pub plan: Plan,
    /// Scripts that have run since the last request: the names of their versions, and their exit
    /// codes.
    pub ran: Vec<(Vec<String>, u8)>,
    /// Descriptions of the steps so far, newest last.
    pub said: Vec<String>,
    pub scripts: usize,
}

/// Maximum number of merged trees that the world remembers.
const MOST_TREES: usize = 200;
/// Number of versions of each component at the start.
const VERSIONS: usize = 4;

impl World {
    pub fn new(place: &Place, seed: u64) -> Self {
        let mut dice = Dice::of(seed, 0);
        let mut bench = Bench::within(&place.dir);
        let _ = bench.registry.process.kill();
        bench.registry.process.wait().unwrap();
        bench.registry = start_registry_with(bench.temp.path(), "127.0.0.1:0", &["-maxver", "0"]);
        fs::create_dir(bench.path("a1")).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let (events, canaries) =
            (Events::open(bench.temp.path()), Canaries::make(bench.path("outside")));
        let mut world = Self {
            link: place.link.clone(),
            flags: flags(&bench, place, &mut dice),
            bench,
            who: Who::me(),
            runtime,
            client: None,
            pool: Vec::new(),
            trees: BTreeMap::new(),
            offered: Vec::new(),
            registry_is_up: true,
            agent: None,
            events,
            canaries,
            mapper: mapper(),
            flagged: Vec::new(),
            open: Vec::new(),
            roots: BTreeMap::new(),
            deployed: None,
            is_certain: true,
            may_be_held: false,
            last_script: None,
            plan: Plan::default(),
            ran: Vec::new(),
            said: Vec::new(),
            scripts: 0,
        };
        for component in 0..COMPONENTS.len() {
            world.add(component, Layer::first(component, &mut dice));
            for _ in 1..VERSIONS {
                let last = world.of(component).last().unwrap().layer.next(&mut dice);
                world.add(component, last);
            }
        }
        world.offered = COMPONENTS.map(|name| format!("{name}-1")).into();
        let layers: Vec<String> = COMPONENTS
            .iter()
            .zip(&world.offered)
            .map(|(component, version)| format!("-layer {component}:{version}"))
            .collect();
        world.operator(&format!("addconf -name project1 {}", layers.join(" ")), b"").unwrap();
        world
    }

    /// The versions of a component, oldest first.
    pub fn of(&self, component: usize) -> impl DoubleEndedIterator<Item = &Version> {
        self.pool.iter().filter(move |version| version.component == component)
    }

    /// Adds a version under two names.
    pub fn add(&mut self, component: usize, layer: Layer) {
        let (name, number) = (COMPONENTS[component], self.of(component).count() + 1);
        let labels = ["", "-again"].map(|again| format!("{name}-{number}{again}"));
        let archive = layer.archive();
        for label in &labels {
            self.operator(&format!("put -name {name} -version {label}"), &archive).unwrap();
        }
        self.pool.push(Version { component, layer, labels });
    }

    /// The number of the version with this name.
    pub fn version(&self, label: &str) -> usize {
        let named = |version: &Version| version.labels.iter().any(|other| other == label);
        self.pool.iter().position(named).unwrap_or_else(|| panic!("no version {label:?}"))
    }

    /// The contents that a root of these versions must have.
    pub fn tree(&mut self, versions: &[usize]) -> Rc<Tree> {
        if self.trees.len() >= MOST_TREES {
            self.trees.clear();
        }
        let (pool, who) = (&self.pool, self.who);
        let made = self.trees.entry(versions.to_vec()).or_insert_with(|| {
            let layers: Vec<&Layer> = versions.iter().map(|&n| &pool[n].layer).collect();
            Rc::new(merge(&layers, who))
        });
        Rc::clone(made)
    }

    pub fn say(&mut self, text: impl Into<String>) {
        self.said.push(text.into());
    }

    pub fn agent_dir(&self) -> PathBuf {
        self.bench.path("a1")
    }

    pub fn root(&self, id: &str) -> PathBuf {
        self.agent_dir().join("unpacked").join(id)
    }

    /// The mounts below the agent's directory.
    pub fn mounts(&self) -> BTreeSet<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let dir = self.agent_dir();
        points.filter(|point| point.starts_with(&dir)).collect()
    }

    /// Whether the directory of the root `id` is still the directory that the script saw.
    pub fn is_known(&self, id: &str) -> bool {
        let Some(known) = self.roots.get(id) else { return false };
        let (Ok(held), Ok(there)) =
            (rustix::fs::fstat(&known.dir), fs::symlink_metadata(self.root(id)))
        else {
            return false;
        };
        (held.st_dev, held.st_ino) == (there.dev(), there.ino())
    }

    pub fn know(&mut self, id: &str, versions: Vec<usize>) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(self.root(id), flags, Mode::empty()).unwrap();
        let unpacked = self.agent_dir().join("unpacked");
        self.roots.retain(|id, _| unpacked.join(id).is_dir());
        self.roots.insert(id.to_owned(), Known { versions, dir });
    }

    /// Runs a command of the registry. Returns the command's output, or the error message of the
    /// registry.
    pub fn operator(&mut self, line: &str, input: &[u8]) -> Result<String, String> {
        let registry = &self.bench.registry;
        if self.client.as_ref().is_none_or(|client| !client.is_alive()) {
            let connect = Connect {
                addr: registry.addr.clone(),
                user: "op".to_owned(),
                keys: Keys::File(self.bench.path("op")),
                host: HostKey::Fingerprint(registry.fingerprint.clone()),
                declared: None,
                timeout: Duration::from_secs(30),
            };
            self.client = Some(self.runtime.block_on(Client::connect(&connect)).unwrap());
        }
        let client = self.client.as_ref().unwrap();
        let done = self.runtime.block_on(client.exec_with_input(line, input)).unwrap();
        if done.code == 0 {
            return Ok(String::from_utf8(done.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
    }

    /// Asks the registry for its configuration.
    pub fn read_offer(&mut self) {
        let json = self.operator("showconf -name project1 -json", b"").unwrap();
        let wanted = Configuration::from_json(json.as_bytes()).unwrap();
        self.offered = labels(&wanted);
    }

    pub fn stop_registry(&mut self) {
        let _ = self.bench.registry.process.kill();
        self.bench.registry.process.wait().unwrap();
        (self.client, self.registry_is_up) = (None, false);
    }

    pub fn start_registry(&mut self) {
        let addr = self.bench.registry.addr.clone();
        self.bench.registry = start_registry_with(self.bench.temp.path(), &addr, &["-maxver", "0"]);
        self.registry_is_up = true;
    }

    /// Id of the configuration in the state file, and the names of its versions.
    pub fn state(&self) -> Option<(String, Vec<String>)> {
        let state = self.bench.state()?;
        Some((state.id().to_string(), labels(&state)))
    }

    /// Checks the promises that must hold at any time.
    pub fn check(&mut self) -> Outcome {
        self.canaries.check()?;
        if let Some(agent) = &mut self.agent
            && let Some(status) = agent.try_wait().unwrap()
        {
            self.agent = None;
            return fault("the agent ended", format!("on its own, with {status}"));
        }
        let Some(id) = self.deployed.clone() else { return Ok(()) };
        let root = self.root(&id);
        if !root.is_dir() {
            return fault("live root gone", root.display().to_string());
        }
        if self.roots.contains_key(&id) && !self.is_known(&id) {
            return fault("live root replaced", root.display().to_string());
        }
        if self.flags.iter().any(|flag| flag == "-current") {
            let led = fs::read_link(self.bench.path("current")).ok();
            if led.as_deref() != Some(&root) {
                return fault("current", format!("leads to {led:?}, wanted {}", root.display()));
            }
        }
        Ok(())
    }

    pub fn agent_log(&self) -> String {
        self.bench.agent_log()
    }

    /// Ends everything that prevents the removal of files and directories: open files, flags and
    /// mounts.
    pub fn release(&mut self) {
        for (open, _) in self.open.drain(..) {
            if let (Open::Mapping(number), Some(mapper)) = (open, &mut self.mapper) {
                let _ = mapper.unmap(number);
            }
        }
        for (file, _) in self.flagged.drain(..) {
            unflag(&file);
        }
        for mount in self.mounts().iter().rev() {
            self.canaries.let_go(mount);
            unmount(mount);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        self.release();
        self.roots.clear();
    }
}

/// Starts a [`Mapper`]. If Python is not installed, prints a notice and returns `None`. In CI, the
/// test fails instead.
fn mapper() -> Option<Mapper> {
    let mapper = Mapper::start();
    if mapper.is_none() {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("NOT TESTED: mapped files; python3 is missing");
    }
    mapper
}

pub fn unflag(file: &File) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(flags) = ioctl_getflags(file) {
        let _ = ioctl_setflags(file, flags - (IFlags::IMMUTABLE | IFlags::APPEND));
    }
}

pub fn unmount(path: &Path) {
    let mut umount = std::process::Command::new("umount");
    let _ = umount.arg("-l").arg(path).stderr(std::process::Stdio::null()).status();
}

pub fn labels(configuration: &Configuration) -> Vec<String> {
    configuration.layers().iter().map(|layer| layer.version.as_str().to_owned()).collect()
}

/// The flags of this world's agent.
fn flags(bench: &Bench, place: &Place, dice: &mut Dice) -> Vec<String> {
    let path = |name: &str| bench.path(name).display().to_string();
    let mut flags = vec!["-dir".to_owned(), path("a1"), "-state".to_owned(), path("state.json")];
    let mut give = |more: &[&str]| flags.extend(more.iter().map(|&flag| flag.to_owned()));
    give(&["-poll", "1h", "-no-watch", "-link", &place.link, "-script", &path("deploy.sh")]);
    if dice.percent(40) {
        give(&["-writable", "var/**"]);
    }
    if dice.percent(15) {
        give(&["-no-spare"]);
    }
    if dice.percent(20) {
        give(&["-keep-blobs"]);
    }
    if dice.percent(30) {
        give(&["-current", &path("current")]);
    }
    give(&["-keep-roots", ["1", "2", "2", "2", "2", "3"][dice.below(6)]]);
    flags
}

impl From<std::io::Error> for Fault {
    fn from(err: std::io::Error) -> Self {
        Self::of("the test itself", err.to_string())
    }
}
