//! Handles leftovers, which are files that could not be removed. A leftover is logged once as a
//! warning, and a later sweep or start of the agent tries to remove the leftover again. A leftover
//! must not make other work fail.

use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::PoisonError;

use crate::digest::Digest;
use crate::disk::{Dir, Mounts, name_of};
use crate::error::{Error, Result, if_exists};
use crate::store::Store;
use crate::store::names::{RETIRED, ok_name, retired_id};

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

/// Removes each entry of `dir` whose name begins with one of `prefixes`. Returns the entries that
/// could not be removed.
pub(in crate::store) fn remove_all(dir: &Dir, prefixes: &[&str]) -> Result<Vec<Left>> {
    remove_all_but(dir, prefixes, |_| Ok(false))
}

/// Like [`remove_all`], but skips the names for which `stays` returns `true`.
pub(in crate::store) fn remove_all_but(
    dir: &Dir,
    prefixes: &[&str],
    stays: impl Fn(&CStr) -> Result<bool>,
) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    let mut mounts = None;
    for item in dir.list()? {
        if !prefixes.iter().any(|prefix| item.name.to_bytes().starts_with(prefix.as_bytes())) {
            continue;
        }
        if stays(&item.name)? {
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
/// this function before the moved roots are removed. Without the moved root, such a record looks
/// like the record of a lost root. The function returns the records that could not be removed.
pub(in crate::store) fn complete_removals(top: &Dir, unpacked: &Dir) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    let Some(roots) = if_exists(top.child(c"roots"))? else { return Ok(left) };
    for item in unpacked.list()? {
        let Some(id) = retired_id(&item.name) else { continue };
        if let Err(err) = complete_removal(&roots, unpacked, id) {
            left.push(Left::new(roots.path_of(&name_of(id)), &err));
        }
    }
    Ok(left)
}

fn complete_removal(roots: &Dir, unpacked: &Dir, id: Digest) -> Result<()> {
    let name = name_of(id);
    // If the root was built again after the interruption, the record belongs to the new root.
    if !unpacked.contains(&name)? {
        roots.remove_file(&name)?;
        roots.sync()?;
        unpacked.remove_file(&ok_name(id))?;
    }
    Ok(())
}

/// Whether `moved` is a root whose record could not be removed yet. The root stays, because only
/// its name shows that the record is no longer needed.
pub(in crate::store) fn has_record(top: &Dir, unpacked: &Dir, moved: &CStr) -> Result<bool> {
    let Some(id) = retired_id(moved) else { return Ok(false) };
    let Some(roots) = if_exists(top.child(c"roots"))? else { return Ok(false) };
    Ok(roots.contains(&name_of(id))? && !unpacked.contains(&name_of(id))?)
}

/// Renames each moved root that could not be removed, once the root's record is removed. The new
/// name does not have the root's id. From then on, a record with this id belongs to a root that was
/// built again.
pub(in crate::store) fn forget_ids(top: &Dir, unpacked: &Dir) -> Result<()> {
    for item in unpacked.list()? {
        if retired_id(&item.name).is_some() && !has_record(top, unpacked, &item.name)? {
            // A root that cannot be renamed keeps its name, and the next start of the agent tries
            // again.
            let _ = unpacked.move_to_temp(&item.name, unpacked, RETIRED);
        }
    }
    Ok(())
}

impl Store {
    /// Logs leftovers. A leftover that was already logged is logged again, but at level debug.
    pub(in crate::store) fn log_leftovers(&self, left: impl IntoIterator<Item = Left>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for Left { path, why } in left {
            if told.insert(path.clone()) {
                tracing::warn!(
                    event = "not_removed",
                    path = %path.display(),
                    "{} is not needed any more but cannot be removed: {why}; a later sweep or \
                     start of the agent tries again",
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
