//! Defines the names in the directory `unpacked/`, which holds the roots.

use std::ffi::{CStr, CString};

use crate::digest::Digest;
use crate::disk::{Dir, FileType, digest_of};
use crate::error::Result;

/// The prefix of the names of roots that are being built.
pub(super) const UNFINISHED: &str = ".new";
/// The prefix of the names of roots that are being removed. If the root was published, the root's
/// id follows the prefix.
pub(super) const RETIRED: &str = ".old";
/// The prefix of the name of a replaced root. The id of the new root follows the prefix. A service
/// may still run in the replaced root, so this root stays until the script of a deployment has
/// succeeded.
pub(super) const REPLACED: &str = ".replaced";
/// The prefix of the names of the files with which the store finds out how files can be placed.
pub(super) const PROBE: &str = ".probe";
/// The prefix of the names of spares.
pub(super) const SPARE: &str = ".spare";
/// The prefix of the names of discarded directories.
pub(super) const DISCARDED: &str = ".gone";
/// The prefixes of the names of entries that are removed when the store is opened.
pub(super) const TEMPORARY: [&str; 5] = [UNFINISHED, RETIRED, PROBE, SPARE, DISCARDED];

/// The name of the mark that the Go agent makes beside a root.
pub(super) fn ok_name(id: Digest) -> CString {
    CString::new(format!("{id}.ok")).expect("hex has no NUL")
}

/// The prefix of the names that the root `id` may have during its removal.
pub(super) fn retired_prefix(id: Digest) -> String {
    format!("{RETIRED}-{id}")
}

/// The id of the published root that is being removed under the temporary name `name`.
pub(super) fn retired_id(name: &CStr) -> Option<Digest> {
    let rest = name.to_bytes().strip_prefix(RETIRED.as_bytes())?.strip_prefix(b"-")?;
    std::str::from_utf8(rest.get(..64)?).ok()?.parse().ok()
}

/// The name of the `n`-th root that the root `id` replaced, counted from 0.
pub(super) fn replaced_name(id: Digest, n: u32) -> CString {
    let name = if n == 0 { format!("{REPLACED}-{id}") } else { format!("{REPLACED}-{id}-{n}") };
    CString::new(name).expect("hex has no NUL")
}

/// Whether `name` in `dir` is a directory. A symlink to a directory does not count.
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
