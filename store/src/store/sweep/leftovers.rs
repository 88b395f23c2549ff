//! What cannot be removed: it stays, is told of once, and is tried again at the next sweep
//! or start. Nothing that is left over is a reason for anything else to fail.

use std::path::PathBuf;
use std::sync::PoisonError;

use crate::disk::{Dir, Mounts};
use crate::error::{Error, Result};
use crate::store::Store;

/// Something that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Left {
    pub path: PathBuf,
    pub why: String,
}

impl Left {
    pub fn new(path: PathBuf, err: &Error) -> Self {
        Self { path, why: err.to_string() }
    }
}

/// Removes everything in `dir` whose name begins with one of `prefixes`, and returns what
/// stays.
pub(in crate::store) fn remove_all(dir: &Dir, prefixes: &[&str]) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    let mut mounts = None;
    for item in dir.list()? {
        if !prefixes.iter().any(|prefix| item.name.to_bytes().starts_with(prefix.as_bytes())) {
            continue;
        }
        let mounts = mounts.get_or_insert_with(Mounts::read);
        if let Err(err) = dir.remove_unmounted(&item.name, mounts) {
            left.push(Left::new(dir.path_of(&item.name), &err));
        }
    }
    Ok(left)
}

impl Store {
    /// Tells of what is left, but for what was told of before.
    pub(in crate::store) fn tell(&self, left: impl IntoIterator<Item = Left>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for Left { path, why } in left {
            if told.insert(path.clone()) {
                tracing::warn!(
                    event = "not_removed",
                    path = %path.display(),
                    "{} is no use any more and stays, as it cannot be removed: {why}; it is tried again later",
                    path.display()
                );
            } else {
                tracing::debug!("{} still cannot be removed: {why}", path.display());
            }
        }
    }

    /// Removes a directory of roots that is no use any more, or tells what stays of it.
    pub(in crate::store) fn remove_retired(&self, name: &std::ffi::CStr) {
        self.end_watch_aside(name);
        if let Err(err) = self.unpacked.remove_unmounted(name, &Mounts::read()) {
            self.tell([Left::new(self.unpacked.path_of(name), &err)]);
        }
    }
}
