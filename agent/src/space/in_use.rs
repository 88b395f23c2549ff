//! Reads the agent's records, and finds out which data sweeps must retain.

use std::io;
use std::path::Path;

use deploy_store::{Configuration, Error, Result};

use crate::agent::Agent;
use crate::records::unproven::Unproven;
use crate::records::{previous, state_file, unsettled};
use crate::space::retained::{Retention, TakenOver};

/// The data that the agent's sweeps must retain. `pending` is a configuration that is about to be
/// deployed, or whose script failed.
pub fn retention(agent: &Agent, pending: Option<&Configuration>) -> Result<Retention> {
    let current = deployed(&agent.state)?;
    let previous = previous::read(&agent.dir, current.as_ref().map(Configuration::id));
    let pending = pending.cloned().or_else(|| unsettled::pending(&agent.dir));
    // Until the current configuration has proven healthy, the agent may return to the previous
    // configuration.
    let unproven =
        Unproven::read(&agent.dir).filter(|it| it.is_of(current.as_ref().map(Configuration::id)));
    let way_back = unproven.and_then(|unproven| unproven.back());
    let pending = pending.or_else(|| previous.clone().filter(|it| Some(it.id()) == way_back));
    let (keep_roots, keep_blobs) = (agent.keep_roots, agent.keep_blobs);
    let replaced = pending.is_none() && unsettled::read(&agent.dir).is_none();
    let taken_over = counted(&agent.dir, agent.count_taken_over)?;
    Ok(Retention { current, previous, pending, keep_roots, keep_blobs, replaced, taken_over })
}

/// What sweeps do with roots in `dir` that another program made. If `count` is true, these roots
/// count among the roots to keep. `gc -taken-over` does not use the result, because it always
/// removes these roots.
pub(crate) fn counted(dir: &Path, count: bool) -> Result<TakenOver> {
    if count { deploy_store::taken_over(dir).map(TakenOver::Count) } else { Ok(TakenOver::Keep) }
}

/// Reads the deployed configuration from the state file. An unreadable state file is an error,
/// because a sweep must know the deployed configuration.
pub(crate) fn deployed(state_file: &Path) -> Result<Option<Configuration>> {
    state_file::peek(state_file).map_err(|err| match err {
        Error::BadConfiguration { .. } | Error::BadName { .. } => {
            let cause = io::Error::new(io::ErrorKind::InvalidData, err.to_string());
            Error::io("use state file", state_file, cause)
        }
        other => other,
    })
}
