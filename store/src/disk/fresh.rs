//! Creating files that have their final metadata after as few calls as can be: what the
//! system gives a new file by itself is not given again.

use std::fs::File;

use rustix::fs;

use super::dir::Dir;
use super::file::temp_name;
use super::meta::{set_mode, set_owner, set_times, set_xattrs};
use crate::error::{Error, Result};
use crate::meta::Meta;

/// What the system makes of files that are created in a directory and below it.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    uid: u32,
    gid: u32,
    /// Permissions that a new file cannot be created with: the umask, or the
    /// directory's default access list.
    denied: u32,
}

impl Fresh {
    /// Finds out by creating a file.
    pub fn probe(dir: &Dir) -> Result<Self> {
        let name = temp_name("probe");
        let file = dir.create_to_write(&name, 0o777)?;
        let stat = fs::fstat(&file).map_err(|err| Error::io("stat", dir.path_of(&name), err))?;
        dir.remove_file(&name)?;
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, denied: 0o777 & !stat.st_mode })
    }

    /// Gives a file that was created with the mode of `meta`, as far as that goes, and written, what it lacks of
    /// `meta`; its owner only when `owner` says so (see [`super::set_meta`]).
    pub fn finish(
        &self,
        file: &File,
        path: &dyn Fn() -> std::path::PathBuf,
        meta: &Meta,
        owner: bool,
    ) -> Result<()> {
        if owner && (meta.uid, meta.gid) != (self.uid, self.gid) {
            set_owner(file, path, meta)?;
        }
        self.finish_mode(file, path, meta.mode)?;
        set_xattrs(file, path, meta, owner)?;
        set_times(file, path, meta)
    }

    /// The same for its permissions alone.
    pub fn finish_mode(
        &self,
        file: &File,
        path: &dyn Fn() -> std::path::PathBuf,
        mode: u32,
    ) -> Result<()> {
        // Setuid, setgid and sticky are not for the creation: a change of owner takes
        // them away.
        if mode & (0o7000 | self.denied) == 0 {
            return Ok(());
        }
        set_mode(file, path, mode)
    }
}
