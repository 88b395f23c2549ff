//! Makes the checks and changes of the test while the deploy script runs.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::dice::Dice;
use crate::events::Asking;
use crate::fault::{Fault, Outcome, fault};
use crate::tree::{Made, differences, look};
use crate::world::World;

/// The moment at which the test kills the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kill {
    #[default]
    Never,
    /// Kill the agent this long after the request.
    Soon(Duration),
    /// Kill the agent while the script runs.
    AtScript,
    /// Kill the agent this long after the script was allowed to end.
    AfterScript(Duration),
}

/// The plan of a deploy: the actions of the script, and the moment at which the test kills the
/// agent.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Number of changes that the script makes to its root and to other roots.
    pub acts: usize,
    pub dice: Option<Dice>,
    /// The exit code of the script.
    pub code: u8,
    pub kill: Kill,
}

/// Number of lines at the end of the agent's log in which the test looks for a message about the
/// deployed root.
const LAST_LINES: usize = 12;

impl World {
    /// Does the work of a script that has begun. If the script's root is new, only the agent can
    /// have changed that root.
    pub fn script(&mut self, asking: &Asking) -> Outcome {
        self.scripts += 1;
        let Asking { new_id, versions, .. } = asking;
        let short = &new_id[..new_id.len().min(8)];
        self.say(format!("  script for {short}: {}", versions.join(" ")));
        let numbers: Vec<usize> = versions.iter().map(|label| self.version(label)).collect();
        let root = self.root(new_id);
        if asking.new_root != root {
            return fault(
                "script's environment",
                format!("NEWROOT is {}", asking.new_root.display()),
            );
        }
        if !asking.old_root.as_os_str().is_empty() && !asking.old_root.is_dir() {
            let text =
                format!("OLDROOT is {}, which is not a directory", asking.old_root.display());
            return fault("OLDROOT is gone", text);
        }
        if self.roots.get(new_id).is_some_and(|known| known.versions != numbers) {
            let same = |a: usize, b: usize| self.pool[a].layer == self.pool[b].layer;
            let known = &self.roots[new_id].versions;
            if !known.iter().zip(&numbers).all(|(&a, &b)| same(a, b)) {
                return fault("id", format!("{short} is {known:?} and {numbers:?}"));
            }
        }
        self.compare(new_id, &numbers)?;
        self.know(new_id, numbers);
        let plan = std::mem::take(&mut self.plan);
        self.act_as_script(&plan, new_id);
        if plan.kill == Kill::AtScript {
            self.say("  the agent is killed while the script runs");
            self.kill();
        }
        self.last_script = Some((versions.clone(), plan.code));
        self.ran.push((versions.clone(), plan.code));
        self.say(format!("  the script ends with {}", plan.code));
        self.events.end_script(plan.code);
        if let Kill::AfterScript(after) = plan.kill {
            std::thread::sleep(after);
            self.say("  the agent is killed after the script");
            self.kill();
        }
        Ok(())
    }

    fn act_as_script(&mut self, plan: &Plan, id: &str) {
        let Some(mut dice) = plan.dice.clone() else { return };
        let root = self.root(id);
        for _ in 0..plan.acts {
            self.hostile(&mut dice, Some(&root));
        }
    }

    /// Compares the root that is about to be deployed with its layers.
    fn compare(&mut self, id: &str, versions: &[usize]) -> Outcome {
        let root = self.root(id);
        let is_live = self.deployed.as_deref() == Some(id);
        if is_live {
            // A service uses this root, so the root may differ from its layers, but must stay. If
            // the state file is lost and the root lacks entries, the agent rebuilds the root. In
            // this case, the old root stays as `.replaced-ID`.
            let aside = self.agent_dir().join(format!("unpacked/.replaced-{id}"));
            if self.roots.contains_key(id) && !self.is_known(id) && !aside.is_dir() {
                return fault("live root replaced", root.display().to_string());
            }
            return Ok(());
        }
        let made = if self.is_known(id) { Made::Reused } else { Made::New };
        let mounts = if made == Made::Reused { self.mounts() } else { BTreeSet::<PathBuf>::new() };
        let wanted = self.tree(versions);
        let seen = look(&root, &mounts)
            .map_err(|err| Fault::of("wrong root: unreadable", format!("{err}")))?;
        let top = std::fs::symlink_metadata(&root).unwrap().permissions().mode() & 0o7777;
        if top != 0o755 {
            return fault("wrong root: mode", format!("the mode of the top directory is {top:o}"));
        }
        // With `-writable`, services may write to the files in `var`. The comparison spares these
        // files under all their names.
        let is_writable = self.flags.iter().any(|flag| flag == "-writable");
        let writable: BTreeSet<&str> = wanted
            .iter()
            .filter(|(path, _)| is_writable && path.starts_with("var/"))
            .map(|(_, entry)| entry.group.as_str())
            .collect();
        let spared = |path: &str| {
            is_writable && (path.starts_with("var/") || writable.contains(&*wanted[path].group))
        };
        let found = differences(&wanted, &seen, made, spared);
        let Some((first, _)) = found.first() else { return Ok(()) };
        if made == Made::Reused && !self.registry_is_up {
            // Without the registry, entries that the cache cannot repair stay changed, because a
            // changed root is better than no root.
            self.say(format!("  {} faults, and no registry: {:?}", found.len(), found.first()));
            return Ok(());
        }
        let told = [
            format!("root {id} was changed since its deploy; the agent uses the changed root"),
            format!("root {id} had no record and was changed"),
            // The test killed the agent after the agent had written the state file, but before it
            // had recorded the success.
            format!("runs again for the deployed {id}"),
        ];
        let log = self.agent_log();
        let mut lines = log.lines().rev().take(LAST_LINES);
        if made == Made::Reused && lines.any(|line| told.iter().any(|told| line.contains(told))) {
            // The agent reports a root that has a mount or cannot be moved, but does not replace
            // it.
            self.say(format!("  {} faults, and reported: {:?}", found.len(), found.first()));
            return Ok(());
        }
        let which = if made == Made::New { "new" } else { "reused" };
        let kind = format!("wrong {which} root: {first}");
        let short = &id[..8];
        let list: Vec<String> =
            found.iter().take(8).map(|(what, text)| format!("{what}: {text}")).collect();
        let text = format!("{short}, {made:?}, has {} faults: {}", found.len(), list.join("; "));
        Err(Fault { kind, what: text })
    }
}
