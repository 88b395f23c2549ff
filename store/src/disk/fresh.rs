//! Completes the metadata of new files in few calls. Permissions and owners that the system already
//! gave to a new file are not set again.

use std::os::fd::AsFd;

use rustix::fs;

use super::dir::Dir;
use super::file::temp_name;
use super::meta::{mode_of, set_mode, set_owner, set_times, set_xattrs};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;

/// The setgid bit. In a directory with this bit, new entries inherit the directory's group, and new
/// directories inherit the bit.
const SETGID: u32 = 0o2000;

/// The metadata that the system gives to new files in a directory and below it.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    uid: u32,
    gid: u32,
    /// The permissions that a new file lacks because of the umask or the directory's default access
    /// list. `None` if the directory has the setgid bit, because the metadata of new directories
    /// then differ from the metadata of new files.
    denied: Option<u32>,
}

impl Fresh {
    /// Creates and removes a file in `dir` to find out the metadata that the system gives to new
    /// files.
    pub fn probe(dir: &Dir) -> Result<Self> {
        let (name, file) = loop {
            let name = temp_name("probe");
            match dir.create_to_write(&name, 0o777) {
                // An earlier process with the same process id left the file.
                Err(err) if err.exists() => {}
                other => break (name, other?),
            }
        };
        let stat = fs::fstat(&file).map_err(|err| Error::io("stat", dir.path_of(&name), err))?;
        dir.remove_file(&name)?;
        let own = fs::fstat(dir).map_err(|err| Error::io("stat", dir.path(), err))?;
        let denied = (own.st_mode & SETGID == 0).then_some(0o777 & !stat.st_mode);
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, denied })
    }

    /// Completes the metadata of a file or directory that was created with `mode` and already has
    /// its contents. The method sets the owner only if `owner` is set (see [`super::set_meta`]).
    pub fn finish(
        &self,
        file: impl AsFd,
        path: &dyn Fn() -> std::path::PathBuf,
        mode: u32,
        meta: &Meta,
        owner: bool,
    ) -> Result<()> {
        if owner && !self.owns(meta) {
            set_owner(&file, path, meta)?;
        }
        self.finish_mode(&file, path, mode, mode_of(meta, owner))?;
        set_xattrs(&file, path, meta, owner)?;
        set_times(&file, path, meta)
    }

    /// Whether the system gives new files the user and group of `meta`.
    pub fn owns(&self, meta: &Meta) -> bool {
        (meta.uid, meta.gid) == (self.uid, self.gid)
    }

    /// Sets the permissions `mode` of a file that was created with the permissions `created`.
    /// Setuid, setgid and sticky are never set at creation, because a change of owner removes
    /// setuid and setgid.
    pub fn finish_mode(
        &self,
        file: impl AsFd,
        path: &dyn Fn() -> std::path::PathBuf,
        created: u32,
        mode: u32,
    ) -> Result<()> {
        match self.denied {
            Some(denied) if created & !denied == mode => Ok(()),
            _ => set_mode(file, path, mode),
        }
    }
}
