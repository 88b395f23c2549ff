//! Leftovers: files that could not be removed. A leftover is logged once as a warning, and the next
//! sweep or start tries again. A leftover must not make other work fail.

use std::path::PathBuf;
use std::sync::PoisonError;

use crate::disk::{Dir, Mounts, name_of};
use crate::error::{Error, Result, if_exists};
use crate::store::Store;
use crate::store::names::{ok_name, retired_id};

/// A file or directory that could not be removed.
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

/// Removes everything in `dir` whose name begins with one of `prefixes`. Returns what could not be
/// removed.
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

/// Removes the records of roots whose removal was interrupted after the root was moved away. Call
/// this before the moved roots are removed: without them, such a record looks like the record of a
/// lost root.
pub(in crate::store) fn complete_removals(top: &Dir, unpacked: &Dir) -> Result<()> {
    let moved: Vec<_> = unpacked.list()?.iter().filter_map(|it| retired_id(&it.name)).collect();
    let Some(roots) = if_exists(top.child(c"roots"))? else { return Ok(()) };
    let mut removed = false;
    for id in moved {
        let name = name_of(id);
        // If the root was built again after the interruption, the record belongs to the new root.
        if !unpacked.contains(&name)? && roots.contains(&name)? {
            roots.remove_file(&name)?;
            unpacked.remove_file(&ok_name(id))?;
            removed = true;
        }
    }
    if removed { roots.sync() } else { Ok(()) }
}

impl Store {
    /// Logs leftovers. If a leftover was already logged, it is logged again at level debug.
    pub(in crate::store) fn log_leftovers(&self, left: impl IntoIterator<Item = Left>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for Left { path, why } in left {
            if told.insert(path.clone()) {
                tracing::warn!(
                    event = "not_removed",
                    path = %path.display(),
                    "{} is not needed any more but cannot be removed: {why}; the next sweep tries \
                     again",
                    path.display()
                );
            } else {
                tracing::debug!("{} still cannot be removed: {why}", path.display());
            }
        }
    }

    /// Removes a retired directory among the roots, or logs that a part of the directory stays.
    pub(in crate::store) fn remove_retired(&self, name: &std::ffi::CStr) {
        self.end_watch_aside(name);
        if let Err(err) = self.unpacked.remove_unmounted(name, &Mounts::read()) {
            self.log_leftovers([Left::new(self.unpacked.path_of(name), &err)]);
        }
    }
}
