//! Names in the directory `unpacked/`, which holds the roots.

use std::ffi::{CStr, CString};

use crate::digest::Digest;
use crate::disk::{Dir, FileType, digest_of};
use crate::error::Result;

/// Prefix of roots that are being built.
pub(super) const UNFINISHED: &str = ".new";
/// Prefix of roots that are being removed. The root's id follows the prefix, if the root was
/// published.
pub(super) const RETIRED: &str = ".old";
/// Prefix of a replaced root. The id of the new root follows the prefix. A service may still run in
/// the replaced root, so this root stays until a script has succeeded.
pub(super) const REPLACED: &str = ".replaced";
/// Prefix of the files with which the store finds out how files can be placed.
pub(super) const PROBE: &str = ".probe";
/// Prefix of spares.
pub(super) const SPARE: &str = ".spare";
/// Prefix of discarded directories.
pub(super) const DISCARDED: &str = ".gone";
/// Prefixes of everything that is not a root under its final name.
pub(super) const TEMPORARY: [&str; 5] = [UNFINISHED, RETIRED, PROBE, SPARE, DISCARDED];

/// The name of the mark that the Go agent makes beside a root.
pub(super) fn ok_name(id: Digest) -> CString {
    CString::new(format!("{id}.ok")).expect("hex has no NUL")
}

/// Prefix of the names that the root `id` may have while it is being removed.
pub(super) fn retired_prefix(id: Digest) -> String {
    format!("{RETIRED}-{id}")
}

/// The id of the published root that is being removed under the temporary name `name`.
pub(super) fn retired_id(name: &CStr) -> Option<Digest> {
    let rest = name.to_bytes().strip_prefix(RETIRED.as_bytes())?.strip_prefix(b"-")?;
    std::str::from_utf8(rest.get(..64)?).ok()?.parse().ok()
}

/// The name of the root that the root `id` replaced.
pub(super) fn replaced_name(id: Digest, n: u32) -> CString {
    let name = if n == 0 { format!("{REPLACED}-{id}") } else { format!("{REPLACED}-{id}-{n}") };
    CString::new(name).expect("hex has no NUL")
}

/// Whether `name` is a directory. A symlink to a directory does not count.
pub(super) fn is_directory(dir: &Dir, name: &CStr) -> Result<bool> {
    match dir.stat(name) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(err) if err.is_not_found() => Ok(false),
        Err(err) => Err(err),
    }
}

/// The ids among the names in a directory.
pub(super) fn ids(dir: &Dir) -> Result<Vec<Digest>> {
    Ok(dir.list()?.iter().filter_map(|item| digest_of(&item.name)).collect())
}
