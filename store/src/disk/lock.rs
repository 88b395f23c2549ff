//! Locks a directory or file against other processes. Usually, a process holds such a lock until
//! the process ends.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::dir::Dir;
use crate::error::{Error, Result};

/// The pauses between the attempts to take a lock. If the last attempt also fails, the directory or
/// file counts as in use.
const PATIENCE: [Duration; 5] = [Duration::from_millis(20); 5];

/// A lock on a directory or file. The lock is released when this value is dropped or the process
/// dies. An agent uses the same lock as the Go agent (`flock` on the directory itself), so the two
/// agents exclude each other.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

impl Lock {
    /// Takes the lock on the directory at `path`. If another process holds the lock, the error
    /// contains the id of that process, or no id if the system does not report it.
    pub fn take(path: &Path) -> Result<Self> {
        Self::acquire(Dir::open(path)?.into(), path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes a shared lock on the open file at `path`. The lock excludes writers with an exclusive
    /// lock, such as bolt (`flock` on its file).
    pub fn share(file: &File, path: &Path) -> Result<Self> {
        let file = file.try_clone().map_err(|err| Error::io("lock", path, err))?;
        Self::acquire(file.into(), path, FlockOperation::NonBlockingLockShared)
    }

    fn acquire(file: OwnedFd, path: &Path, how: FlockOperation) -> Result<Self> {
        let mut patience = PATIENCE.into_iter();
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self { _file: file }),
                // A child process of the last holder may still have the descriptor, until the child
                // has executed its own program.
                Err(rustix::io::Errno::WOULDBLOCK) => match patience.next() {
                    Some(pause) => std::thread::sleep(pause),
                    None => return Err(Error::Busy { path: path.to_owned(), pid: holder(path) }),
                },
                Err(err) => return Err(Error::io("lock", path, err)),
            }
        }
    }
}

/// Finds the process that holds the lock on `path` in the kernel's list of locks (`/proc/locks`,
/// see proc(5)). Each line ends in `PID MAJOR:MINOR:INODE START END`.
fn holder(path: &Path) -> Option<u32> {
    let meta = fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(meta.st_dev()), rustix::fs::minor(meta.st_dev()));
    let inode = format!("{major:02x}:{minor:02x}:{}", meta.st_ino());
    // The kernel returns the list in parts, and may leave out a lock while other locks are taken
    // and released. So the list is read several times.
    (0..5).find_map(|_| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let line = locks.lines().find(|line| line.contains("FLOCK") && line.contains(&inode))?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|field| *field == inode)?;
        fields.get(at.checked_sub(1)?)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_names_the_holder() {
        let temp = tempfile::tempdir().unwrap();
        let lock = Lock::take(temp.path()).unwrap();
        let Err(Error::Busy { pid, .. }) = Lock::take(temp.path()) else { panic!("taken twice") };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        Lock::take(temp.path()).unwrap();
    }
}
