//! Opens the directories at paths of a tree. The functions open one name at a time and follow no
//! symlinks.

use std::ffi::CString;

use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;

/// Opens the directory that contains `path` (`None` for `root` itself). Also returns the last part
/// of `path`.
pub fn open_parent(root: &Dir, path: &EntryPath) -> Result<(Option<Dir>, CString)> {
    let (parent, name) = path.split().ok_or_else(no_such_name)?;
    Ok((open_dir(root, &parent)?, c_name(name)?))
}

/// Opens the directory at `path`; `None` for `root` itself.
pub fn open_dir(root: &Dir, path: &EntryPath) -> Result<Option<Dir>> {
    let mut dir: Option<Dir> = None;
    for part in path.parts() {
        dir = Some(dir.as_ref().unwrap_or(root).child(&c_name(part)?)?);
    }
    Ok(dir)
}

/// Like [`open_dir`], but opens each directory with [`Dir::child_unread`].
pub fn find_dir(root: &Dir, path: &EntryPath) -> Result<Option<Dir>> {
    let mut dir: Option<Dir> = None;
    for part in path.parts() {
        dir = Some(dir.as_ref().unwrap_or(root).child_unread(&c_name(part)?)?);
    }
    Ok(dir)
}

/// Converts a name for system calls. No name has a NUL, because an archive with a NUL in a name is
/// refused.
pub fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| no_such_name())
}

fn no_such_name() -> Error {
    Error::BadEntry { entry: String::new(), reason: "is not a file name".to_owned() }
}
