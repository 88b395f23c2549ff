//! What the threads that read archives and build roots may do to the rest of the machine:
//! nothing. A mistake in them must not become a write as root.
//!
//! Three walls, each where the system has it: Landlock (landlock(7)) lets them change
//! nothing but what is below the agent's directory, run no program and open no TCP
//! connection, but for the first version of it, which allows no renames; `no_new_privs`; and of root's capabilities those that owners, modes, devices
//! and attributes of files need. All three belong to a thread and to those that it starts,
//! for ever, so that confined work gets a thread of its own; the deploy script is started
//! by another and is not confined.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use deploy_store::escape;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

/// The newest rules that are asked for; a kernel that knows fewer enforces those.
const RULES: ABI = ABI::V6;
/// What a program needs to give files away, whatever their owners and modes, and to see who
/// has them open; and their names, for messages.
const NEEDED: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::CHOWN, "chown"),
    (CapabilitySet::DAC_OVERRIDE, "dac_override"),
    (CapabilitySet::DAC_READ_SEARCH, "dac_read_search"),
    (CapabilitySet::FOWNER, "fowner"),
    (CapabilitySet::FSETID, "fsetid"),
    (CapabilitySet::LEASE, "lease"),
    (CapabilitySet::MKNOD, "mknod"),
    (CapabilitySet::SETFCAP, "setfcap"),
];

/// Values of `-confine`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Confine {
    /// As far as the system can.
    #[default]
    Auto,
    /// All of it, or do not start.
    Require,
    /// Not at all.
    Off,
}

/// The walls that are up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// Landlock: `full`, `partial` (the kernel knows fewer rules), or `none`.
    pub landlock: String,
    /// Whether no program that is run gains rights by being run.
    pub no_new_privs: bool,
    /// Capabilities that are left.
    pub capabilities: Vec<String>,
    /// Whether no others are.
    pub capabilities_dropped: bool,
}

impl Sandbox {
    /// Whether all are up and whole.
    pub fn is_whole(&self) -> bool {
        self.landlock == "full" && self.no_new_privs && self.capabilities_dropped
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privileges = if self.no_new_privs { "no new privileges" } else { "new privileges" };
        let capabilities = match (&self.capabilities[..], self.capabilities_dropped) {
            (_, false) => "all capabilities".to_owned(),
            ([], true) => "no capabilities".to_owned(),
            (some, true) => format!("capabilities {}", some.join(" ")),
        };
        let landlock = escape(&self.landlock);
        write!(f, "landlock {landlock}, {privileges}, {}", escape(&capabilities))
    }
}

/// Why nothing is confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be named to the kernel, or the kernel's answer is none.
    #[error("confine to {dir:?}: {cause}")]
    Rules {
        /// The directory.
        dir: std::path::PathBuf,
        /// Why.
        cause: String,
    },
    /// `-confine require` asks for what is not there.
    #[error(
        "-confine require, but all there is on this system is {0}; a kernel since 6.12 with landlock in its list of security modules has all of it"
    )]
    NotWhole(Sandbox),
}

/// How work is confined. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Confinement(Option<Arc<Confined>>);

#[derive(Debug)]
struct Confined {
    /// Landlock's; `None` where it would do harm.
    rules: Option<RulesetCreated>,
    sandbox: Sandbox,
}

impl Confinement {
    /// None at all.
    pub fn none() -> Self {
        Self(None)
    }

    /// To the directory `dir`. A thread is confined to see what comes of it.
    pub fn to(dir: &Path, how: Confine) -> Result<Self, Error> {
        if how == Confine::Off {
            return Ok(Self::none());
        }
        let failed = |cause: String| Error::Rules { dir: dir.to_owned(), cause };
        let rules = if allows_renames() {
            Some(rules(dir).map_err(|err| failed(err.to_string()))?)
        } else {
            None
        };
        let tried = || {
            confine(rules.as_ref());
            current_sandbox()
        };
        let sandbox = in_thread(tried).map_err(failed)?;
        if how == Confine::Require && !sandbox.is_whole() {
            return Err(Error::NotWhole(sandbox));
        }
        Ok(Self(Some(Arc::new(Confined { rules, sandbox }))))
    }

    /// What a confined thread has around it; `None`: nothing.
    pub fn sandbox(&self) -> Option<Sandbox> {
        self.0.as_ref().map(|confined| confined.sandbox.clone())
    }

    /// Runs `work` in a thread of its own that is confined, and all that it starts with it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(confined) = &self.0 else { return work() };
        in_thread(|| {
            confine(confined.rules.as_ref());
            work()
        })
    }

    /// Confines the calling thread, and all that it starts, for ever.
    pub fn enter(&self) {
        if let Some(confined) = &self.0 {
            confine(confined.rules.as_ref());
        }
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let ended = std::thread::scope(|scope| scope.spawn(work).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether Landlock of this kernel can let files be linked and renamed from one directory to
/// another, as whoever builds roots does. The first version (ABI 1, Linux 5.13 to 5.18) always
/// forbids it.
fn allows_renames() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessFs::Refer).is_ok()
}

/// The directory is opened here, once: what stands in its place later is another.
fn rules(dir: &Path) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    let changes = AccessFs::from_write(RULES);
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes | AccessFs::Execute)?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?
        .no_new_privs(true)
        .add_rule(PathBeneath::new(PathFd::new(dir)?, changes))?;
    Ok(rules)
}

/// A wall that could not be put up shows in [`current_sandbox`], which is asked at the start.
fn confine(rules: Option<&RulesetCreated>) {
    let restricted = rules.map(|rules| -> Result<_, Box<dyn std::error::Error>> {
        Ok(rules.try_clone()?.restrict_self().map_err(|err: RulesetError| err)?.ruleset)
    });
    let status = match restricted {
        Some(Ok(RulesetStatus::FullyEnforced)) => "full",
        Some(Ok(RulesetStatus::PartiallyEnforced)) => "partial",
        _ => "none",
    };
    LANDLOCK.with(|landlock| landlock.set(status));
    let _ = rustix::thread::set_no_new_privs(true);
    let needed = NEEDED.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    if let Ok(had) = capabilities(None) {
        let left = CapabilitySets {
            effective: had.effective & needed,
            permitted: had.permitted & needed,
            inheritable: CapabilitySet::empty(),
        };
        let _ = set_capabilities(None, left);
    }
}

thread_local! {
    /// What Landlock said in this thread; the kernel does not tell afterwards.
    static LANDLOCK: std::cell::Cell<&'static str> = const { std::cell::Cell::new("none") };
}

/// The walls around the calling thread.
fn current_sandbox() -> Result<Sandbox, String> {
    let failed = |err: rustix::io::Errno| format!("look at what is confined: {err}");
    let has = capabilities(None).map_err(failed)?;
    let has = has.effective | has.permitted;
    let named =
        |(one, name): &(CapabilitySet, &str)| has.contains(*one).then(|| (*name).to_owned());
    let needed = NEEDED.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    Ok(Sandbox {
        landlock: LANDLOCK.with(std::cell::Cell::get).to_owned(),
        no_new_privs: rustix::thread::no_new_privs().map_err(failed)?,
        capabilities: NEEDED.iter().filter_map(named).collect(),
        capabilities_dropped: (has - needed).is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn confined_work_changes_nothing_outside_and_what_comes_after_is_free() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "c").unwrap();
        let confinement = Confinement::to(&inside, Confine::Auto).unwrap();
        let walls = confinement.sandbox().unwrap();
        assert!(walls.no_new_privs && walls.capabilities_dropped, "{walls}");
        if walls.landlock == "none" {
            // Said, not passed over: what follows cannot hold without.
            assert!(std::env::var_os("CI").is_none(), "this kernel has no landlock");
            return;
        }
        let denied = |done: std::io::Result<()>| {
            let err = done.expect_err("it was let");
            assert!(
                matches!(err.raw_os_error(), Some(libc) if [1, 13, 18].contains(&libc)),
                "{err}"
            );
        };
        confinement.run(|| {
            fs::write(inside.join("a"), "a").unwrap();
            fs::create_dir(inside.join("d")).unwrap();
            fs::rename(inside.join("a"), inside.join("d/b")).unwrap();
            fs::hard_link(inside.join("d/b"), inside.join("c")).unwrap();
            // And what it starts with it.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    denied(fs::write(outside.join("x"), "x"));
                    denied(fs::write(outside.join("canary"), "x"));
                    denied(fs::remove_file(outside.join("canary")));
                    denied(fs::rename(inside.join("c"), outside.join("c")));
                    denied(fs::hard_link(outside.join("canary"), inside.join("e")));
                    denied(std::os::unix::fs::symlink("x", outside.join("s")));
                    denied(std::process::Command::new("/bin/true").status().map(drop));
                    let connected = std::net::TcpStream::connect("127.0.0.1:9").map(drop);
                    if walls.landlock == "full" {
                        denied(connected);
                    }
                });
            });
            // Reading is not denied: time zones and the like.
            fs::read(outside.join("canary")).unwrap();
        });
        fs::write(outside.join("x"), "x").unwrap();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"c");
    }

    #[test]
    fn a_panic_in_confined_work_goes_on_outside() {
        let temp = tempfile::tempdir().unwrap();
        let confinement = Confinement::to(temp.path(), Confine::Auto).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            confinement.run(|| panic!("inside"));
        }));
        assert!(panicked.is_err());
        assert_eq!(Confinement::none().run(|| 7), 7);
    }

    #[test]
    fn what_is_up_is_told() {
        let walls = Sandbox {
            landlock: "full".to_owned(),
            no_new_privs: true,
            capabilities: vec!["chown".to_owned()],
            capabilities_dropped: true,
        };
        assert_eq!(walls.to_string(), "landlock full, no new privileges, capabilities chown");
        assert!(walls.is_whole() && !Sandbox::default().is_whole());
        let none = "landlock , new privileges, all capabilities";
        assert_eq!(Sandbox::default().to_string(), none);
    }
}
