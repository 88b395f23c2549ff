//! The step from one root to the next: symlink, script, state file. A signal to the agent
//! waits until it is done.

use std::ffi::CStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Root};

use crate::cycle::{Agent, millis};
use crate::error::{Error, Result};
use crate::script::{self, Change};
use crate::{blocking, current, previous, running, state, unsettled};

/// The end of the last script's output is kept under this name in the agent's directory.
const SCRIPT_LOG: &CStr = c"script.log";

/// What becomes of the configuration deployed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// A rollback leads to it.
    Remembered,
    /// No rollback leads to it: it was rolled back from.
    Forgotten,
}

/// Deploys the finished `root` of `new`, where `deployed` is.
pub async fn run(
    agent: &Agent,
    deployed: Option<&Configuration>,
    new: &Configuration,
    root: &Root,
    before: Before,
) -> Result<()> {
    let _critical = agent.stop.critical().await;
    let new_root = absolute(&root.path);
    let root_of = |id| absolute(&agent.store.root_path(id));
    let old_id = deployed.map(Configuration::id);
    let old_root = old_id.map(root_of);
    let link = match &agent.current {
        Some(path) => Some(Link::switch(path, &new_root, old_root.as_deref())?),
        None => None,
    };
    let told = unsettled::told(unsettled::read(&agent.dir).as_ref(), old_id, new.id());
    let told = told.map(|id| (id, root_of(id)));
    // The same tree under other versions has no old root: a script that removes the old
    // one must not remove the one in use. But where that tree had to be built anew the service
    // runs in what was replaced.
    let replaced = root.replaced.as_deref().map(absolute);
    let old = told.as_ref().map(|(id, root)| (*id, &**root));
    let old = old.or(old_id.zip(replaced.as_deref()));
    let change = Change { old, new, new_root: &new_root };
    if let Err(cause) = run_script(agent, change, before, !root.reused).await {
        if let Some(link) = link {
            link.switch_back();
        }
        let log = absolute(&agent.dir.join(&*SCRIPT_LOG.to_string_lossy()));
        return Err(Error::Script { target: Box::new(new.clone()), cause, log });
    }
    let store = Arc::clone(&agent.store);
    blocking::run(move || store.sync_roots()).await?;
    // What is the same as the state leads nowhere, should the agent die between the two.
    if let (Some(old), true, Before::Remembered) = (deployed, old_id != Some(new.id()), before) {
        previous::write(&agent.dir, Some(old))?;
    }
    state::write(&agent.state, new)?;
    settle(agent);
    if before == Before::Forgotten {
        previous::write(&agent.dir, None)?;
    }
    agent.report.update(|report| {
        report.deployed = Some(new.id().to_string());
        if !root.reused {
            report.placed = Some(root.into());
            report.spare = report.spare.take().filter(|_| !root.from_spare);
        }
    });
    tracing::info!(
        event = "switched",
        id = %new.id(),
        old_id = old_id.map(|id| id.to_string()),
        "switched to the new configuration: {}", new.id()
    );
    Ok(())
}

/// Has the symlink lead to the root of what is deployed. It leads elsewhere where the agent was
/// killed after it was switched, and the registry has gone back since.
pub fn mend_link(agent: &Agent, deployed: &Configuration) -> Result<()> {
    let Some(path) = &agent.current else { return Ok(()) };
    let root = absolute(&agent.store.root_path(deployed.id()));
    let before = current::target(path)?;
    if before == std::path::absolute(&root).ok() || !root.is_dir() {
        return Ok(());
    }
    current::switch(path, Some(&root))?;
    let before = before.map(|path| path.display().to_string()).unwrap_or_default();
    tracing::warn!(
        event = "link_mended",
        id = %deployed.id(),
        before,
        "the symlink {} led to {before:?} and not to what is deployed; it does again",
        path.display()
    );
    Ok(())
}

/// The symlink, switched, and where it has to lead again if the script fails.
struct Link<'a> {
    path: &'a Path,
    back: Option<PathBuf>,
}

impl<'a> Link<'a> {
    fn switch(path: &'a Path, new_root: &Path, old_root: Option<&Path>) -> Result<Self> {
        let before = current::target(path)?;
        // The link is ahead of the state when the agent died between the two.
        let ahead = std::path::absolute(new_root).ok() == before;
        let elsewhere = before.filter(|_| !ahead);
        let back = old_root.map(Path::to_owned).or(elsewhere);
        current::switch(path, Some(new_root))?;
        Ok(Self { path, back })
    }

    fn switch_back(self) {
        if let Err(err) = current::switch(self.path, self.back.as_deref()) {
            tracing::error!(event = "switch_back_failed", "cannot switch the symlink back: {err}");
        }
    }
}

async fn run_script(
    agent: &Agent,
    change: Change<'_>,
    before: Before,
    synced: bool,
) -> Result<(), script::Error> {
    let Some(script) = &agent.script else { return Ok(()) };
    let started = Instant::now();
    let left = unsettled::read(&agent.dir);
    let (id, old) = (change.new.id(), change.old.map(|(id, _)| id));
    let rollback = before == Before::Forgotten;
    let note = |pid| match pid {
        0 => unsettled::begin(&agent.dir, left.as_ref(), id, old, rollback, synced),
        pid => running::note(&agent.dir, id, pid),
    };
    let (output, ended) = script::run(script, change, &agent.stop, note).await;
    // For people; nothing depends on it.
    if let Err(err) = keep_output(agent, &output) {
        tracing::debug!("cannot keep the script's output: {err}");
    }
    if let Err(cause) = &ended {
        let noted = if cause.has_run() {
            let why = format!("{cause}; what it printed is in script.log");
            unsettled::failed(&agent.dir, &why)
        } else if unsettled::read(&agent.dir) == left {
            Ok(())
        } else {
            unsettled::put(&agent.dir, left.as_ref())
        };
        if let Err(err) = noted {
            tracing::warn!("no note of the script that failed: {err}");
        }
    }
    ended?;
    let ms = millis(started);
    tracing::info!(
        event = "script_finished",
        id = %change.new.id(),
        ms,
        "script {:?} finished in {ms} ms", script.program
    );
    Ok(())
}

fn settle(agent: &Agent) {
    if let Err(err) = unsettled::settle(&agent.dir) {
        tracing::warn!("the script will run once more, as its note stays: {err}");
    }
}

/// Made anew each time: what is there may be a link that leads elsewhere, if the directory is
/// another user's.
fn keep_output(agent: &Agent, output: &[u8]) -> deploy_store::Result<()> {
    let dir = Dir::open(&agent.dir)?;
    dir.remove_file(SCRIPT_LOG)?;
    let file = dir.create_file(SCRIPT_LOG, 0o644)?;
    (&file).write_all(output).map_err(|cause| deploy_store::Error::Io {
        action: "write",
        path: dir.path_of(SCRIPT_LOG),
        cause,
    })
}

/// A path that means the same wherever the script goes, without a `./` in it.
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
