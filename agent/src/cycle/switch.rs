//! Switches from one root to the next: switches the symlink, runs the script, and writes the state
//! file. If the agent receives a signal to end, it completes the switch first. If the script runs
//! too long after the signal, the agent ends the script.

use std::ffi::CStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Root};
use deploy_wire::fleet::Phase;

use crate::agent::Agent;
use crate::blocking;
use crate::error::{Error, Result};
use crate::fleet::reasons;
use crate::log::millis;
use crate::records::agent_report::Placed;
use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::{self, Unproven};
use crate::records::unsettled::{self, Unsettled};
use crate::records::{current_link, previous, running_script, state_file};
use crate::script::{self, Change};

/// Name of the file in the agent's directory that contains the end of the last script's output.
pub(crate) const SCRIPT_LOG: &CStr = c"script.log";

/// What happens to the record of the previous configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// After the switch, `previous.json` names the target of a rollback from the new configuration.
    /// The agent writes the file only if the target changes.
    Keep,
    /// The agent removes `previous.json`, because this switch is a rollback, and a rollback cannot
    /// be rolled back.
    Clear,
}

/// A switch to a root that is complete.
#[derive(Debug, Clone, Copy)]
pub struct Switch<'a> {
    /// The deployed configuration, if any.
    pub deployed: Option<&'a Configuration>,
    /// The configuration to deploy.
    pub new: &'a Configuration,
    /// The root of the configuration `new`, which is complete.
    pub root: &'a Root,
    /// What happens to the record of the previous configuration.
    pub previous: Previous,
    /// The hold of a rollback; `None` if the switch is not a rollback. The agent records the hold
    /// before the switch. If the script of an operator's rollback fails, the agent lifts the hold.
    pub hold: Option<&'a RollbackHold>,
}

/// Deploys a complete root. Returns the time at which the script ended.
pub async fn run(agent: &Agent, switch: Switch<'_>) -> Result<Instant> {
    let _critical = agent.stop.critical().await;
    if let Some(hold) = switch.hold.cloned() {
        // The agent records the hold before the script runs. If the agent dies during the rollback,
        // the next start of the agent reads the hold and completes the rollback.
        let dir = agent.dir.clone();
        blocking::run(move || hold.put(&dir)).await?;
    }
    let switched = to_root(agent, switch).await;
    // If the script of an operator's rollback failed, the hold ends. After any other error, the
    // hold stays, and a later cycle continues the rollback. If the rollback follows a failed health
    // gate, the caller lifts the hold after it has recorded the failure.
    if switch.hold.is_some_and(|hold| hold.reason.is_none())
        && matches!(switched, Err(Error::Script { .. }))
    {
        let dir = agent.dir.clone();
        blocking::run(move || RollbackHold::lift(&dir)).await?;
    }
    switched
}

async fn to_root(agent: &Agent, switch: Switch<'_>) -> Result<Instant> {
    let Switch { deployed, new, root, previous, .. } = switch;
    let new_root = absolute(&root.path);
    let root_of = |id| absolute(&agent.store.root_path(id));
    let old_id = deployed.map(Configuration::id);
    let link = switch_link(agent, &new_root, old_id.map(root_of)).await?;
    let dir = agent.dir.clone();
    let left = blocking::run(move || unsettled::read(&dir)).await;
    let told = unsettled::old_for_script(left.as_ref(), old_id, new.id());
    let told = told.map(|id| (id, root_of(id)));
    // If only names or versions changed, the old root is also the new root. In this case the script
    // gets no old root, because a script that removes its `OLDROOT` would remove the root in use.
    // If the root was rebuilt, the script gets the replaced root, because the service still runs in
    // that root.
    let replaced = root.replaced.as_deref().map(absolute);
    let old = told.as_ref().map(|(id, root)| (*id, &**root));
    let old = old.or(old_id.zip(replaced.as_deref()));
    let change = Change { old, new, new_root: &new_root };
    if let Err(cause) = run_script(agent, change, left, previous, !root.reused).await {
        if let Some(link) = link {
            blocking::run(move || link.switch_back()).await;
        }
        let log = absolute(&agent.dir.join(&*SCRIPT_LOG.to_string_lossy()));
        return Err(Error::Script { target: Box::new(new.clone()), cause, log });
    }
    let ended = Instant::now();
    record_success(agent, switch).await?;
    tracing::info!(
        event = "switched",
        id = %new.id(),
        old_id = old_id.map(|id| id.to_string()),
        "switched to the new configuration: {}", new.id()
    );
    Ok(ended)
}

/// Records the script's success, so that the agent does not run the script again after a restart.
async fn record_success(agent: &Agent, switch: Switch<'_>) -> Result<()> {
    let Switch { deployed, new, root, previous, hold } = switch;
    // The health gate follows every switch except a rollback.
    let (gated, is_rollback) = (hold.is_none() && agent.health.is_some(), hold.is_some());
    let (store, dir, state) = (Arc::clone(&agent.store), agent.dir.clone(), agent.state.clone());
    let (deployed, new) = (deployed.cloned(), new.clone());
    let report = agent.report.clone();
    let (placed, reused, from_spare) = (Placed::from(root), root.reused, root.from_spare);
    let work = move || {
        store.sync_roots()?;
        // The agent writes `previous.json` before the state file. If the agent dies in between,
        // `previous.json` names the deployed configuration, and a rollback finds no target.
        let mut left = deployed.filter(|deployed| deployed.id() != new.id());
        if gated {
            // The agent records the gate before it writes the state file. If the agent dies after
            // both writes, the next start of the agent finds the record and runs the gate.
            let back = note_gate(&dir, left.as_ref(), &new)?;
            left = left.filter(|left| Some(left.id()) == back);
        }
        if let (Some(left), Previous::Keep) = (left, previous) {
            previous::write(&dir, Some(&left))?;
        }
        state_file::write(&state, &new)?;
        if let Err(err) = unsettled::clear(&dir) {
            tracing::warn!(
                "the script will run again, because the record of its start cannot be removed: \
                 {err}"
            );
        }
        if previous == Previous::Clear {
            previous::write(&dir, None)?;
        }
        if is_rollback {
            unproven::remove(&dir)?;
        }
        report.update(|report| {
            report.deployed = Some(new.id().to_string());
            if !reused {
                report.placed = Some(placed);
                report.spare = report.spare.take().filter(|_| !from_spare);
            }
        });
        Ok::<_, Error>(())
    };
    blocking::run(work).await
}

/// Records that `new`, which replaces `old`, has not proven healthy yet. Returns the id of the
/// configuration to return to if `new` does not prove healthy.
fn note_gate(
    dir: &Path,
    old: Option<&Configuration>,
    new: &Configuration,
) -> deploy_store::Result<Option<Digest>> {
    let record = Unproven::read(dir);
    // If there is no old configuration, `new` is already deployed, or is the first configuration.
    let deployed = old.map_or(new.id(), Configuration::id);
    let back = unproven::way_back(record.as_ref(), Some(deployed), new.id());
    Unproven::new(new.id(), back).write(dir)?;
    Ok(back)
}

/// Makes the symlink lead to the root of the deployed configuration. The symlink may lead elsewhere
/// because an agent was killed during a switch, and the registry's configuration then changed back
/// to the deployed configuration.
pub async fn mend_link(agent: &Agent, deployed: &Configuration) -> Result<()> {
    let Some(path) = agent.current.clone() else { return Ok(()) };
    let root = absolute(&agent.store.root_path(deployed.id()));
    let id = deployed.id();
    let work = move || {
        let before = current_link::target(&path)?;
        if before == std::path::absolute(&root).ok() || !root.is_dir() {
            return Ok(());
        }
        current_link::switch(&path, Some(&root))?;
        let before = before.map(|path| path.display().to_string());
        let found = match &before {
            Some(before) => format!("led to {before:?} and not to the deployed root"),
            None => "was missing".to_owned(),
        };
        let before = before.unwrap_or_default();
        tracing::warn!(
            event = "link_mended",
            %id,
            before,
            "the symlink {} {found}; the agent corrected the symlink",
            path.display()
        );
        Ok(())
    };
    blocking::run(work).await
}

/// A switched symlink, and the target that the agent restores if the script fails.
struct Link {
    path: PathBuf,
    back: Option<PathBuf>,
}

async fn switch_link(
    agent: &Agent,
    new_root: &Path,
    old_root: Option<PathBuf>,
) -> Result<Option<Link>> {
    let Some(path) = agent.current.clone() else { return Ok(None) };
    let new_root = new_root.to_owned();
    let link = blocking::run(move || Link::switch(path, &new_root, old_root)).await?;
    Ok(Some(link))
}

impl Link {
    fn switch(path: PathBuf, new_root: &Path, old_root: Option<PathBuf>) -> Result<Self> {
        let before = current_link::target(&path)?;
        // If an earlier agent died between switching the symlink and writing the state file, the
        // symlink already leads to the new root.
        let ahead = std::path::absolute(new_root).ok() == before;
        let elsewhere = before.filter(|_| !ahead);
        let back = old_root.or(elsewhere);
        current_link::switch(&path, Some(new_root))?;
        Ok(Self { path, back })
    }

    fn switch_back(self) {
        if let Err(err) = current_link::switch(&self.path, self.back.as_deref()) {
            tracing::error!(event = "switch_back_failed", "cannot switch the symlink back: {err}");
        }
    }
}

/// Runs the script. `left` is the record of an earlier script that did not succeed. `synced` says
/// whether the recorded intention to run the script is already synced to the disk.
async fn run_script(
    agent: &Agent,
    change: Change<'_>,
    left: Option<Unsettled>,
    previous: Previous,
    synced: bool,
) -> Result<(), script::Error> {
    let Some(script) = &agent.script else { return Ok(()) };
    let started = Instant::now();
    let (id, old) = (change.new.id(), change.old.map(|(id, _)| id));
    let rollback = previous == Previous::Clear;
    let (dir, before) = (agent.dir.clone(), left.clone());
    let note = move |pid| match pid {
        0 => unsettled::begin(&dir, before.as_ref(), id, old, rollback, synced),
        pid => running_script::note(&dir, id, pid),
    };
    agent.reports.reached(Phase::Script);
    let (output, ended) = script::run(script, change, &agent.stop, note).await;
    agent.reports.printed(&output);
    let dir = agent.dir.clone();
    let after = move || {
        // No deploy depends on the file with the output, so a failed write is only logged.
        if let Err(err) = keep_output(&dir, &output) {
            tracing::debug!("cannot keep the script's output: {err}");
        }
        if let Err(cause) = &ended
            && let Err(err) = note_failure(&dir, left.as_ref(), cause)
        {
            tracing::warn!("cannot record the failed script: {err}");
        }
        ended
    };
    blocking::run(after).await?;
    let ms = millis(started);
    tracing::info!(
        event = "script_finished",
        %id,
        ms,
        "script {:?} finished in {ms} ms", script.program
    );
    Ok(())
}

/// Records why the script failed. If the script was not started, restores the record `left`.
fn note_failure(
    dir: &Path,
    left: Option<&Unsettled>,
    cause: &script::Error,
) -> deploy_store::Result<()> {
    if cause.has_run() {
        let why = format!("{cause}; the script's output is in script.log");
        return unsettled::failed(dir, &why, reasons::script_exit_code(cause));
    }
    if unsettled::read(dir).as_ref() == left { Ok(()) } else { unsettled::put(dir, left) }
}

/// Writes the script's output to a new file each time, and never to an existing file. If another
/// user owns the directory, an existing file may be a link that leads elsewhere.
fn keep_output(dir: &Path, output: &[u8]) -> deploy_store::Result<()> {
    let dir = Dir::open(dir)?;
    dir.remove_file(SCRIPT_LOG)?;
    let file = dir.create_file(SCRIPT_LOG, 0o644)?;
    (&file).write_all(output).map_err(|cause| deploy_store::Error::Io {
        action: "write",
        path: dir.path_of(SCRIPT_LOG),
        cause,
    })
}

/// Makes a path absolute, so that the path has the same meaning in any working directory of the
/// script. The result contains no `./`.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        let here = std::env::current_dir().unwrap();
        for (path, want) in [("./unpacked/x", "unpacked/x"), ("a1/u", "a1/u")] {
            assert_eq!(absolute(Path::new(path)), here.join(want));
        }
        assert_eq!(absolute(Path::new("/a//b")), Path::new("/a/b"));
    }
}
