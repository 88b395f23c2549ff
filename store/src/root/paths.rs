//! Opens the directories that paths of a tree name, one name at a time, without following links.

use std::ffi::CString;

use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;

/// The directory of `path` (`None`: `root` itself), and the last part of `path`.
pub fn open_parent(root: &Dir, path: &EntryPath) -> Result<(Option<Dir>, CString)> {
    let (parent, name) = path.split().ok_or_else(no_such_name)?;
    Ok((open_dir(root, &parent)?, c_name(name)?))
}

/// The directory at `path`; `None` for `root` itself.
pub fn open_dir(root: &Dir, path: &EntryPath) -> Result<Option<Dir>> {
    let mut dir: Option<Dir> = None;
    for part in path.parts() {
        dir = Some(dir.as_ref().unwrap_or(root).child(&c_name(part)?)?);
    }
    Ok(dir)
}

/// Like [`open_dir`], only to find names in it, see [`Dir::child_unread`].
pub fn find_dir(root: &Dir, path: &EntryPath) -> Result<Option<Dir>> {
    let mut dir: Option<Dir> = None;
    for part in path.parts() {
        dir = Some(dir.as_ref().unwrap_or(root).child_unread(&c_name(part)?)?);
    }
    Ok(dir)
}

/// A name for the system. No name has a NUL: archives with a NUL in a name are refused.
pub fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| no_such_name())
}

fn no_such_name() -> Error {
    Error::BadEntry { entry: String::new(), reason: "is not a file name".to_owned() }
}
