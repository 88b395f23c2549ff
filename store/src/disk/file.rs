//! Writes files durably. A durable write first creates, writes and syncs a temporary file in the
//! same directory. Then the write renames the file to the final name, and syncs the directory. The
//! new contents are not visible under the final name before the rename.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, FlockOperation, Mode};

use super::dir::{Dir, cstring};
use super::fault;
use crate::error::{Error, Result};

/// A file that is being written under a temporary name. Dropping the value removes the file, unless
/// the file must be kept (see [`TempFile::keep`]). The file is locked while it is open, so that a
/// sweep can distinguish the file from a leftover of a crash.
#[derive(Debug)]
pub struct TempFile {
    dir: Arc<Dir>,
    name: CString,
    file: File,
    keep: bool,
}

impl TempFile {
    /// Creates the file `PREFIX-PID-N` in `dir`. N is the next number for which this name is free.
    pub fn create(dir: &Arc<Dir>, prefix: &str) -> Result<Self> {
        loop {
            let name = temp_name(prefix);
            match dir.create_file(&name, 0o600) {
                Ok(file) => return Self::locked(dir, name, file),
                Err(err) if err.exists() => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Opens the file `name` in `dir` to continue writing at the end of the file. A missing file is
    /// created. Dropping the value keeps the file.
    pub fn resume(dir: &Arc<Dir>, name: &CStr) -> Result<Self> {
        let file = match dir.create_file(name, 0o600) {
            Err(err) if err.exists() => dir.open_file_rw(name)?,
            other => other?,
        };
        let mut temp = Self::locked(dir, name.to_owned(), file)?;
        temp.keep = true;
        Ok(temp)
    }

    fn locked(dir: &Arc<Dir>, name: CString, file: File) -> Result<Self> {
        fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|err| Error::io("lock", dir.path_of(&name), err))?;
        Ok(Self { dir: Arc::clone(dir), name, file, keep: false })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The temporary name.
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// Sets whether dropping the value keeps the file under its temporary name.
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Syncs the file, renames it to its final name `to` in `into`, and syncs `into`. When this
    /// method has returned, the file and its name survive a power cut.
    pub fn commit(mut self, into: &Dir, to: &CStr) -> Result<()> {
        self.sync()?;
        self.dir.rename(&self.name, into, to)?;
        self.keep = true;
        into.sync()
    }

    /// Syncs the file.
    fn sync(&self) -> Result<()> {
        fault::step()
            .and_then(|()| fs::fsync(&self.file))
            .map_err(|err| self.error("sync", err.into()))
    }

    /// Renames the file to its final name `to` in `into`. A barrier (a sync of the whole
    /// filesystem) must already have synced the file, and a later barrier must sync the name.
    pub fn publish(mut self, into: &Dir, to: &CStr) -> Result<()> {
        self.dir.rename(&self.name, into, to)?;
        self.keep = true;
        Ok(())
    }

    /// Makes an error for `action` on this file.
    pub fn error(&self, action: &'static str, err: std::io::Error) -> Error {
        Error::io(action, self.dir.path_of(&self.name), err)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep {
            // A drop cannot report an error. If the removal fails, the file stays.
            let _ = self.dir.remove_file(&self.name);
        }
    }
}

/// A temporary name that this process has not used before.
pub(crate) fn temp_name(prefix: &str) -> CString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    CString::new(format!("{prefix}-{}-{n}", std::process::id())).expect("prefix has no NUL")
}

/// Locks a directory in the same way as a [`TempFile`] locks its file. The lock lasts until the
/// descriptor is closed.
pub(crate) fn hold(dir: impl AsFd) -> std::io::Result<()> {
    Ok(fs::flock(dir, FlockOperation::NonBlockingLockExclusive)?)
}

/// Whether a running process holds the lock on the temporary file or directory (see [`TempFile`]
/// and [`hold`]).
pub(crate) fn is_held(file: impl AsFd) -> bool {
    fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Durably replaces the file at `path` with a file that has these `contents`. After a crash at any
/// time, the file has either the old bytes or the new bytes.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = Arc::new(Dir::open(parent.unwrap_or(Path::new(".")))?);
    let name = cstring(path.file_name().unwrap_or(OsStr::new("")), path)?;
    let temp = TempFile::create(&dir, "temp-state")?;
    fault::write_all(temp.file(), contents).map_err(|err| temp.error("write", err))?;
    fs::fchmod(temp.file(), Mode::from_raw_mode(mode))
        .map_err(|err| temp.error("chmod", err.into()))?;
    temp.commit(&dir, &name)
}
