//! Reads and writes `previous.json` in the agent's directory. The file records the configuration
//! that a rollback deploys. This configuration was deployed before the current configuration. With
//! a health gate, it is the last such configuration that proved healthy. The record is a file of
//! its own, because a sweep may remove the previous root and that root's record before the
//! rollback.

use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Result};

use crate::records::state_file;

const NAME: &std::ffi::CStr = c"previous.json";

/// The recorded configuration; `None` if there is no record, or if the record names `current`. A
/// damaged file counts as a missing file.
pub fn read(dir: &Path, current: Option<Digest>) -> Option<Configuration> {
    let previous = state_file::peek(&dir.join(&*NAME.to_string_lossy())).unwrap_or_else(|err| {
        tracing::warn!("cannot read the previous configuration: {err}");
        None
    });
    previous.filter(|previous| Some(previous.id()) != current)
}

/// Records `previous`, durably. `None` removes the record.
pub fn write(dir: &Path, previous: Option<&Configuration>) -> Result<()> {
    if let Some(previous) = previous {
        return state_file::write(&dir.join(&*NAME.to_string_lossy()), previous);
    }
    let dir = Dir::open(dir)?;
    dir.remove_file(NAME)?;
    dir.sync()
}
