//! Names in `unpacked/`, where the roots are.

use std::ffi::{CStr, CString};

use crate::digest::Digest;
use crate::disk::{Dir, FileType, digest_of};
use crate::error::Result;

/// Prefix of roots that are being built.
pub(super) const UNFINISHED: &str = ".new";
/// Prefix of roots that are being removed.
pub(super) const RETIRED: &str = ".old";
/// Prefix of what stood where a root was published, with the root's id behind it. A service
/// may run in it, so that it stays until a script has succeeded.
pub(super) const REPLACED: &str = ".replaced";
/// Prefix of the files with which the way of placing is found out.
pub(super) const PROBE: &str = ".probe";
/// Prefix of spares.
pub(super) const SPARE: &str = ".spare";
/// Prefix of directories that are no use any more.
pub(super) const DISCARDED: &str = ".gone";
/// Prefixes of what is no root under its final name.
pub(super) const TEMPORARY: [&str; 5] = [UNFINISHED, RETIRED, PROBE, SPARE, DISCARDED];

/// The mark of the Go agent beside a root.
pub(super) fn ok_name(id: Digest) -> CString {
    CString::new(format!("{id}.ok")).expect("hex has no NUL")
}

/// The name of what was replaced by the root `id`.
pub(super) fn replaced_name(id: Digest, n: u32) -> CString {
    let name = if n == 0 { format!("{REPLACED}-{id}") } else { format!("{REPLACED}-{id}-{n}") };
    CString::new(name).expect("hex has no NUL")
}

/// Whether a directory, and not a symlink to one, stands under `name`.
pub(super) fn is_directory(dir: &Dir, name: &CStr) -> Result<bool> {
    match dir.stat(name) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(err) if err.is_not_found() => Ok(false),
        Err(err) => Err(err),
    }
}

/// The ids that names in a directory are.
pub(super) fn ids(dir: &Dir) -> Result<Vec<Digest>> {
    Ok(dir.list()?.iter().filter_map(|item| digest_of(&item.name)).collect())
}
