//! What was deployed before the current state: where a rollback leads. Kept by itself,
//! because the root may be gone by then, and its record with it.

use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Result};

use crate::records::state_file;

const NAME: &std::ffi::CStr = c"previous.json";

/// The configuration deployed before `current`. One that is damaged is none.
pub fn read(dir: &Path, current: Option<Digest>) -> Option<Configuration> {
    let previous = state_file::peek(&dir.join(&*NAME.to_string_lossy())).unwrap_or_else(|err| {
        tracing::warn!("what was deployed before is not known: {err}");
        None
    });
    previous.filter(|previous| Some(previous.id()) != current)
}

/// Remembers `previous`, or that there is nothing to go back to.
pub fn write(dir: &Path, previous: Option<&Configuration>) -> Result<()> {
    if let Some(previous) = previous {
        return state_file::write(&dir.join(&*NAME.to_string_lossy()), previous);
    }
    let dir = Dir::open(dir)?;
    dir.remove_file(NAME)?;
    dir.sync()
}
