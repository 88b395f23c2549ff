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
use crate::{blocking, current, previous, running, state};

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

/// Deploys the finished `root` of `new`.
pub async fn run(
    agent: &Agent,
    old: Option<&Configuration>,
    new: &Configuration,
    root: &Root,
    before: Before,
) -> Result<()> {
    let _critical = agent.stop.critical().await;
    let new_root = as_given(&root.path);
    let old_root = old.map(|old| as_given(&agent.store.root_path(old.id())));
    let link = match &agent.current {
        Some(path) => Some(Link::switch(path, &new_root, old_root.as_deref())?),
        None => None,
    };
    let old_id = old.map(Configuration::id);
    // The same tree under other versions has no old root: a script that removes the old
    // one must not remove the one in use.
    // But where that tree had to be built anew it runs in what was replaced.
    let replaced = root.replaced.as_deref().map(as_given);
    let old_script_root = old_root.as_deref().filter(|_| old_id != Some(new.id()));
    let old_script_root = old_script_root.or(replaced.as_deref());
    let change = Change { old: old_id.zip(old_script_root), new, new_root: &new_root };
    if let Err(cause) = run_script(agent, change).await {
        if let Some(link) = link {
            link.switch_back();
        }
        // Where it ran for what is deployed it has to run again.
        if old_id != Some(new.id()) {
            forget_script(agent);
        }
        return Err(Error::Script { target: Box::new(new.clone()), cause });
    }
    let store = Arc::clone(&agent.store);
    blocking::run(move || store.settle()).await?;
    // What is the same as the state leads nowhere, should the agent die between the two.
    if let (Some(old), true, Before::Remembered) = (old, old_id != Some(new.id()), before) {
        previous::write(&agent.dir, Some(old))?;
    }
    state::write(&agent.state, new)?;
    forget_script(agent);
    if before == Before::Forgotten {
        previous::write(&agent.dir, None)?;
    }
    if !root.reused {
        agent.report.update(|report| {
            report.placed = Some(root.into());
            report.spare = report.spare.take().filter(|_| !root.from_spare);
        });
    }
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
    let root = as_given(&agent.store.root_path(deployed.id()));
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

async fn run_script(agent: &Agent, change: Change<'_>) -> Result<(), script::Error> {
    let Some(script) = &agent.script else { return Ok(()) };
    let started = Instant::now();
    let note = |pid| running::note(&agent.dir, change.new.id(), pid);
    let on_start = |pid| {
        if let Err(err) = note(pid) {
            tracing::warn!("no note of the script that runs: {err}");
        }
    };
    let (output, ended) = script::run(script, change, &agent.stop, on_start).await;
    // For people; nothing depends on it.
    if let Err(err) = keep_output(agent, &output) {
        tracing::debug!("cannot keep the script's output: {err}");
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

fn forget_script(agent: &Agent) {
    if let Err(err) = running::forget(&agent.dir) {
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

/// A path as scripts know it from the Go tool, without a `./` at its beginning.
fn as_given(path: &Path) -> PathBuf {
    path.components().filter(|part| part.as_os_str() != ".").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_as_given() {
        for (path, want) in [("./unpacked/x", "unpacked/x"), ("a1/u", "a1/u"), ("/a//b", "/a/b")] {
            assert_eq!(as_given(Path::new(path)), Path::new(want));
        }
    }
}
