//! Opens directories and works on the names in an open directory.

mod change;

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use rustix::fs::FileType;
use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::fault;
use super::mounts::same_mount;
use crate::error::{Error, Result};

/// An open directory. The methods take names that are single path components. No method except
/// [`Dir::connect`] follows a symlink at such a name.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name in the directory.
    pub name: CString,
    /// The kind of the file with this name.
    pub kind: FileType,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Dir {
    /// Opens the directory at `path`. Symlinks in the path are followed, because the path comes
    /// from the operator.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|err| Error::io("open directory", path, err))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens the directory at `path`. If the directory is missing, it is created with its missing
    /// parents.
    pub fn open_or_create(path: &Path, mode: u32) -> Result<Self> {
        match Self::open(path) {
            Err(err) if err.is_not_found() => {}
            other => return other,
        }
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Self::open(path),
        };
        let parent = Self::open_or_create(parent, 0o755)?;
        let Some(name) = path.file_name() else { return Self::open(path) };
        let mut dir = parent.child_or_create(&cstring(name, path)?, mode)?;
        path.clone_into(&mut dir.path);
        Ok(dir)
    }

    /// Opens the directory `name`. A missing directory is created, and its name is synced.
    pub fn child_or_create(&self, name: &CStr, mode: u32) -> Result<Self> {
        match self.make_dir(name, mode) {
            Ok(()) => self.sync()?,
            Err(err) if err.exists() => {}
            Err(err) => return Err(err),
        }
        self.child(name)
    }

    /// Like [`Dir::child_or_create`], but without the sync. A later barrier (a sync of the whole
    /// filesystem) syncs the new directory.
    pub fn child_or_make(&self, name: &CStr, mode: u32) -> Result<Self> {
        match self.make_dir(name, mode) {
            Err(err) if !err.exists() => Err(err),
            _ => self.child(name),
        }
    }

    /// Opens the directory `name`.
    pub fn child(&self, name: &CStr) -> Result<Self> {
        let path = self.path_of(name);
        let fd = fs::openat(&self.fd, name, DIRECTORY, Mode::empty())
            .map_err(|err| Error::io("open directory", &path, err))?;
        Ok(Self { fd, path })
    }

    /// Opens the directory `name` only for lookups of names in the directory. The result cannot
    /// list the directory. Since Linux 6.10, watches on the directory do not report this open.
    pub fn child_unread(&self, name: &CStr) -> Result<Self> {
        let path = self.path_of(name);
        let fd = fs::openat(&self.fd, name, DIRECTORY | OFlags::PATH, Mode::empty())
            .map_err(|err| Error::io("open directory", &path, err))?;
        Ok(Self { fd, path })
    }

    /// Opens the directory `name`. The method fails if something is mounted on `name`, because a
    /// mount is not part of this directory.
    pub fn child_within(&self, name: &CStr) -> Result<Self> {
        let path = self.path_of(name);
        let fail = |err: Errno| match err {
            Errno::XDEV => {
                let reason = "something is mounted on it";
                let cause = io::Error::new(io::ErrorKind::CrossesDevices, reason);
                Error::io("open directory", &path, cause)
            }
            err => Error::io("open directory", &path, err),
        };
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let fd = match fs::openat2(&self.fd, name, DIRECTORY, Mode::empty(), resolve) {
            // A kernel before 5.6 lacks the system call, and some system call filters refuse the
            // call.
            Err(Errno::NOSYS | Errno::PERM) => {
                let fd = fs::openat(&self.fd, name, DIRECTORY, Mode::empty()).map_err(fail)?;
                if !same_mount(&self.fd, &fd) {
                    return Err(fail(Errno::XDEV));
                }
                fd
            }
            other => other.map_err(fail)?,
        };
        Ok(Self { fd, path })
    }

    /// The path by which this directory was opened, for messages and watches.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in this directory, for messages and watches.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }

    /// Opens the regular file `name` for reading.
    pub fn open_file(&self, name: &CStr) -> Result<File> {
        self.open_with(name, OFlags::RDONLY)
    }

    /// Opens the regular file `name` for reading and writing.
    pub fn open_file_rw(&self, name: &CStr) -> Result<File> {
        self.open_with(name, OFlags::RDWR)
    }

    /// Opens the regular file `name` for reading. Also returns the status of the file.
    pub fn open_file_and_stat(&self, name: &CStr) -> Result<(File, Stat)> {
        self.open_and_stat(name, OFlags::RDONLY)
    }

    /// Opens the regular file `name` for writing, and truncates the file. The file must have no
    /// other name.
    pub fn open_to_rewrite(&self, name: &CStr) -> Result<File> {
        let (file, stat) = self.open_and_stat(name, OFlags::WRONLY)?;
        if stat.st_nlink != 1 {
            let reason = "it has another name".to_owned();
            return Err(Error::Corrupt { path: self.path_of(name), reason });
        }
        fault::step()
            .and_then(|()| fs::ftruncate(&file, 0))
            .map_err(|err| self.error("truncate", name, err))?;
        Ok(file)
    }

    fn open_with(&self, name: &CStr, access: OFlags) -> Result<File> {
        self.open_and_stat(name, access).map(|(file, _)| file)
    }

    fn open_and_stat(&self, name: &CStr, access: OFlags) -> Result<(File, Stat)> {
        let file = self.open_not_following(name, access)?;
        let stat = fs::fstat(&file).map_err(|err| self.error("stat", name, err))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let reason = "it is not a regular file".to_owned();
            return Err(Error::Corrupt { path: self.path_of(name), reason });
        }
        Ok((file, stat))
    }

    /// Opens `name` for reading. `name` may be any kind of file except a symlink.
    pub fn open_any(&self, name: &CStr) -> Result<File> {
        self.open_not_following(name, OFlags::RDONLY)
    }

    fn open_not_following(&self, name: &CStr, access: OFlags) -> Result<File> {
        // NONBLOCK is set because a fifo in place of the file must not block the open.
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        fault::step()
            .and_then(|()| fs::openat(&self.fd, name, flags, Mode::empty()))
            .map(File::from)
            .map_err(|err| self.error("open", name, err))
    }

    /// Creates the file `name` for reading and writing. The file must not exist yet.
    pub fn create_file(&self, name: &CStr, mode: u32) -> Result<File> {
        self.create_with(name, mode, OFlags::RDWR)
    }

    /// Creates the file `name` for writing only. The file must not exist yet.
    pub fn create_to_write(&self, name: &CStr, mode: u32) -> Result<File> {
        self.create_with(name, mode, OFlags::WRONLY)
    }

    fn create_with(&self, name: &CStr, mode: u32, access: OFlags) -> Result<File> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        fault::step()
            .and_then(|()| fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)))
            .map(File::from)
            .map_err(|err| self.error("create", name, err))
    }

    /// The status of `name` itself, even if `name` is a symlink.
    pub fn stat(&self, name: &CStr) -> Result<Stat> {
        fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| self.error("stat", name, err))
    }

    /// Whether `name` exists.
    pub fn contains(&self, name: &CStr) -> Result<bool> {
        match self.stat(name) {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The target of the symlink `name`.
    pub fn read_link(&self, name: &CStr) -> Result<CString> {
        fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(|err| self.error("read symlink", name, err))
    }

    /// All names in the directory, in byte order.
    pub fn list(&self) -> Result<Vec<Item>> {
        let fail = |err: rustix::io::Errno| Error::io("list", &self.path, err);
        let mut items = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => FileType::from_raw_mode(self.stat(name)?.st_mode),
                known => known,
            };
            items.push(Item { name: name.to_owned(), kind });
        }
        items.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(items)
    }

    /// Calls `each` for each name in the directory, in any order. `each` may remove that name.
    pub fn for_each(&self, mut each: impl FnMut(&CStr) -> Result<()>) -> Result<()> {
        let fail = |err: rustix::io::Errno| Error::io("list", &self.path, err);
        for entry in fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                each(entry.file_name())?;
            }
        }
        Ok(())
    }

    /// Whether two syncs of the filesystem take little more time than one sync, as on ext4 and XFS.
    /// btrfs writes its trees again at each sync: 50,000 files took 5.2 s with a sync every 64 MiB,
    /// and 4.5 s with one sync at the end.
    pub fn syncs_in_parts(&self) -> Result<bool> {
        const KNOWN: [u64; 2] = [0xef53, 0x5846_5342];
        let stat = fs::fstatfs(&self.fd)
            .map_err(|err| Error::io("stat filesystem of", &self.path, err))?;
        Ok(u64::try_from(stat.f_type).is_ok_and(|kind| KNOWN.contains(&kind)))
    }

    /// The number of the device that holds the directory.
    pub fn device(&self) -> Result<u64> {
        let stat = fs::fstat(&self.fd).map_err(|err| Error::io("stat", &self.path, err))?;
        Ok(stat.st_dev)
    }

    /// The numbers of free bytes and free inodes that this user may use on the filesystem.
    pub fn free(&self) -> Result<(u64, u64)> {
        let stat = fault::step()
            .and_then(|()| fs::fstatvfs(&self.fd))
            .map_err(|err| Error::io("stat filesystem of", &self.path, err))?;
        Ok((stat.f_bavail * stat.f_frsize, stat.f_favail))
    }

    /// The size of the filesystem, in bytes.
    pub fn filesystem_bytes(&self) -> Result<u64> {
        let stat = fault::step()
            .and_then(|()| fs::fstatvfs(&self.fd))
            .map_err(|err| Error::io("stat filesystem of", &self.path, err))?;
        Ok(stat.f_blocks * stat.f_frsize)
    }

    pub(super) fn error(&self, action: &'static str, name: &CStr, err: rustix::io::Errno) -> Error {
        Error::io(action, self.path_of(name), err)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Error {
    /// Whether the error means that the name already exists.
    pub fn exists(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// Converts `name` for system calls. A name with a NUL is an error.
pub(crate) fn cstring(name: &OsStr, path: &Path) -> Result<CString> {
    CString::new(name.as_bytes())
        .map_err(|_| Error::io("open", path, io::Error::from(io::ErrorKind::InvalidInput)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_or_symlink_is_not_opened_as_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.make_node(c"fifo", FileType::Fifo, 0o600, 0).unwrap();
        dir.symlink(c"/etc/passwd", c"link").unwrap();
        assert!(dir.open_file(c"fifo").is_err());
        assert!(dir.open_file(c"link").is_err());
    }
}
