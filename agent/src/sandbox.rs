//! Provides the sandbox for the threads that read archives and build roots. A bug in these threads
//! must not lead to a write outside the agent's directory with the rights of root.
//!
//! The sandbox has three parts. The agent uses each part that the system supports:
//!
//! - Landlock (landlock(7)): the thread can change only files below the agent's directory. The
//!   thread can neither run programs nor open TCP connections. The agent does not use the first
//!   version of Landlock, because that version forbids renames between directories.
//! - `no_new_privs`: a program that the thread runs gains no additional rights.
//! - Fewer capabilities: root keeps only the capabilities for access to files, and for owners,
//!   modes, devices, attributes and leases of files.
//!
//! All three restrictions apply to a thread and to the threads that this thread starts, and cannot
//! be undone. Therefore confined work runs in a thread of its own. The deploy script is not
//! confined, because an unconfined thread starts the script.

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

/// The version of Landlock's rules that the agent asks for. An older kernel enforces only the
/// restrictions that it knows.
const RULES: ABI = ABI::V6;
/// The capabilities that a confined thread keeps, with their names for messages. Among other
/// things, a thread with these capabilities can change the owner of any file, and can find out
/// whether a file is open.
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
    /// Confine as far as the system allows.
    #[default]
    Auto,
    /// Confine completely, or do not start.
    Require,
    /// Do not confine.
    Off,
}

/// The sandbox of a confined thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// How Landlock confines the thread: `full`, `partial` (the kernel enforces only some of the
    /// rules), or `none`.
    pub landlock: String,
    /// Whether `no_new_privs` is set, so that a program that the thread runs gains no additional
    /// rights.
    pub no_new_privs: bool,
    /// The names of the capabilities that the thread keeps.
    pub capabilities: Vec<String>,
    /// Whether the thread has dropped all other capabilities.
    pub capabilities_dropped: bool,
}

impl Sandbox {
    /// Whether all three parts are in force completely.
    pub fn is_complete(&self) -> bool {
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

/// Why the sandbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be opened, or the kernel refuses the rules.
    #[error("confine to {dir:?}: {cause}")]
    Rules {
        /// The directory.
        dir: std::path::PathBuf,
        /// The cause.
        cause: String,
    },
    /// `-confine require` was given, but the system lacks a part of the sandbox.
    #[error(
        "-confine require was given, but this system has only a part of the sandbox ({0}); use \
         kernel 6.12 or later with landlock in its list of security modules"
    )]
    Incomplete(Sandbox),
}

/// Confines work in a sandbox. A clone confines work in the same way.
#[derive(Debug, Clone, Default)]
pub struct Confinement(Option<Arc<Confined>>);

#[derive(Debug)]
struct Confined {
    /// Landlock's rules; `None` if the kernel has no Landlock, or if Landlock would forbid renames.
    rules: Option<RulesetCreated>,
    sandbox: Sandbox,
}

impl Confinement {
    /// Work that runs with this value is not confined.
    pub fn none() -> Self {
        Self(None)
    }

    /// A confinement to the directory `dir`. To find out which restrictions take effect, the
    /// function first confines a thread that does no other work.
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
        if how == Confine::Require && !sandbox.is_complete() {
            return Err(Error::Incomplete(sandbox));
        }
        Ok(Self(Some(Arc::new(Confined { rules, sandbox }))))
    }

    /// The sandbox of a confined thread; `None` without confinement.
    pub fn sandbox(&self) -> Option<Sandbox> {
        self.0.as_ref().map(|confined| confined.sandbox.clone())
    }

    /// Runs `work` in a confined thread of its own, and waits for the result. The threads that
    /// `work` starts are confined, too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(confined) = &self.0 else { return work() };
        in_thread(|| {
            confine(confined.rules.as_ref());
            work()
        })
    }

    /// Confines the calling thread and the threads that it starts, permanently.
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

/// Whether this kernel's version of Landlock can allow links and renames between directories. The
/// build of a root needs such links and renames. The first version of Landlock (ABI 1, Linux 5.13
/// to 5.18) always forbids them.
fn allows_renames() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessFs::Refer).is_ok()
}

/// The rules for the directory `dir`. The rules apply to the directory that this function opens,
/// and not to a directory that later replaces it.
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

/// Confines the calling thread. [`current_sandbox`] shows which parts failed.
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
    /// How completely the kernel enforces Landlock's rules in this thread. The kernel reports this
    /// only when the rules are applied.
    static LANDLOCK: std::cell::Cell<&'static str> = const { std::cell::Cell::new("none") };
}

/// The sandbox of the calling thread.
fn current_sandbox() -> Result<Sandbox, String> {
    let failed = |err: rustix::io::Errno| format!("read the sandbox of a thread: {err}");
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
    fn confined_work_changes_nothing_outside_and_later_work_is_unconfined() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "c").unwrap();
        let confinement = Confinement::to(&inside, Confine::Auto).unwrap();
        let sandbox = confinement.sandbox().unwrap();
        assert!(sandbox.no_new_privs && sandbox.capabilities_dropped, "{sandbox}");
        if sandbox.landlock == "none" {
            // In CI, a kernel without Landlock is an error, because the checks below need Landlock.
            assert!(std::env::var_os("CI").is_none(), "this kernel has no landlock");
            return;
        }
        let denied = |done: std::io::Result<()>| {
            let err = done.expect_err("it was allowed");
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
            // A thread that confined work starts is confined, too.
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
                    if sandbox.landlock == "full" {
                        denied(connected);
                    }
                });
            });
            // Confined work may read files outside the directory, for example the time zone data.
            fs::read(outside.join("canary")).unwrap();
        });
        fs::write(outside.join("x"), "x").unwrap();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"c");
    }

    #[test]
    fn panic_in_confined_work_reaches_the_caller() {
        let temp = tempfile::tempdir().unwrap();
        let confinement = Confinement::to(temp.path(), Confine::Auto).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            confinement.run(|| panic!("inside"));
        }));
        assert!(panicked.is_err());
        assert_eq!(Confinement::none().run(|| 7), 7);
    }

    #[test]
    fn sandbox_is_described() {
        let sandbox = Sandbox {
            landlock: "full".to_owned(),
            no_new_privs: true,
            capabilities: vec!["chown".to_owned()],
            capabilities_dropped: true,
        };
        assert_eq!(sandbox.to_string(), "landlock full, no new privileges, capabilities chown");
        assert!(sandbox.is_complete() && !Sandbox::default().is_complete());
        let none = "landlock , new privileges, all capabilities";
        assert_eq!(Sandbox::default().to_string(), none);
    }
}
