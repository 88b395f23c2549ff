//! Changes the names in a directory, and makes such changes durable.

use std::ffi::{CStr, CString};

use rustix::fs::{self, AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use super::{Dir, FileType};
use crate::disk::fault;
use crate::disk::file::temp_name;
use crate::error::{Error, Result};

impl Dir {
    /// Makes a directory under an unused temporary name, and returns this name. An earlier process
    /// with the same process id may have left a file under a temporary name. The method keeps this
    /// file and tries the next name.
    pub fn make_temp(&self, prefix: &str, mode: u32) -> Result<CString> {
        loop {
            let name = temp_name(prefix);
            match self.make_dir(&name, mode) {
                Err(err) if err.exists() => {}
                other => return other.map(|()| name),
            }
        }
    }

    /// Renames `from` to an unused temporary name in `into`, and returns this name.
    pub fn move_to_temp(&self, from: &CStr, into: &Self, prefix: &str) -> Result<CString> {
        loop {
            let name = temp_name(prefix);
            if !into.contains(&name)? {
                return fault::step()
                    .and_then(|()| fs::renameat(&self.fd, from, &into.fd, &name))
                    .map_err(|err| Error::io("rename", self.path_of(from), self.why(from, err)))
                    .map(|()| name);
            }
        }
    }

    /// Makes the directory `name`.
    pub fn make_dir(&self, name: &CStr, mode: u32) -> Result<()> {
        fault::step()
            .and_then(|()| fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)))
            .map_err(|err| self.error("create directory", name, err))
    }

    /// Renames `from` to `to` in the directory `into`. An existing `to` is replaced, as by
    /// rename(2).
    pub fn rename(&self, from: &CStr, into: &Self, to: &CStr) -> Result<()> {
        fault::step()
            .and_then(|()| fs::renameat(&self.fd, from, &into.fd, to))
            .map_err(|err| self.error("rename", from, err))
    }

    /// Renames `from` to `to` in the directory `into`, if `to` does not exist. Returns `false` if
    /// `to` exists, or if the filesystem cannot guarantee that the rename replaces nothing.
    pub fn rename_new(&self, from: &CStr, into: &Self, to: &CStr) -> Result<bool> {
        let flags = RenameFlags::NOREPLACE;
        match fault::step().and_then(|()| fs::renameat_with(&self.fd, from, &into.fd, to, flags)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::INVAL | Errno::NOSYS) => Ok(false),
            Err(err) => Err(self.error("rename", from, err)),
        }
    }

    /// Exchanges two names of this directory in one step. Returns `false` if the filesystem does
    /// not support the exchange.
    pub fn exchange(&self, one: &CStr, other: &CStr) -> Result<bool> {
        let flags = RenameFlags::EXCHANGE;
        match fault::step().and_then(|()| fs::renameat_with(&self.fd, one, &self.fd, other, flags))
        {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
            // Only this process uses the name `one`, so the name `other` caused the error.
            Err(err) => Err(Error::io("exchange", self.path_of(other), self.why(other, err))),
        }
    }

    /// Makes `to` in `into` a hardlink to the file `from`.
    pub fn link(&self, from: &CStr, into: &Self, to: &CStr) -> Result<()> {
        fault::step()
            .and_then(|()| fs::linkat(&self.fd, from, &into.fd, to, AtFlags::empty()))
            .map_err(|err| into.error("link", to, err))
    }

    /// Makes the symlink `name`.
    pub fn symlink(&self, target: &CStr, name: &CStr) -> Result<()> {
        fault::step()
            .and_then(|()| fs::symlinkat(target, &self.fd, name))
            .map_err(|err| self.error("symlink", name, err))
    }

    /// Makes the fifo or device `name`.
    pub fn make_node(&self, name: &CStr, kind: FileType, mode: u32, device: u64) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        fault::step()
            .and_then(|()| fs::mknodat(&self.fd, name, kind, mode, device))
            .map_err(|err| self.error("create node", name, err))
    }

    /// Removes the file `name`. A missing file counts as success.
    pub fn remove_file(&self, name: &CStr) -> Result<()> {
        match fault::step().and_then(|()| fs::unlinkat(&self.fd, name, AtFlags::empty())) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(err) => Err(self.error("remove", name, err)),
        }
    }

    /// Gives the directory itself the permissions `mode`.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        fault::step()
            .and_then(|()| fs::fchmod(&self.fd, Mode::from_raw_mode(mode)))
            .map_err(|err| Error::io("change mode of", &self.path, err))
    }

    /// Syncs the names of this directory.
    pub fn sync(&self) -> Result<()> {
        fault::step()
            .and_then(|()| fs::fsync(&self.fd))
            .map_err(|err| Error::io("sync directory", &self.path, err))
    }

    /// Syncs all data that was written to this filesystem so far.
    pub fn sync_filesystem(&self) -> Result<()> {
        fault::step()
            .and_then(|()| fs::syncfs(&self.fd))
            .map_err(|err| Error::io("sync filesystem of", &self.path, err))
    }
}
