//! Finds the mount points that this process sees. A mount below one of the agent's directories does
//! not belong to the agent, so the agent must not remove the files on this mount.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, StatxFlags};

use super::dir::Dir;
use crate::error::{Error, Result};

/// The system's table of mounts. A thread needs no permission to read its own table.
const TABLE: &str = "/proc/thread-self/mountinfo";
/// The index of the field that states the mount point in a line of the table (see
/// `proc_pid_mountinfo(5)`).
const MOUNT_POINT: usize = 4;

/// The mount points of the process's mount namespace at one time.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    points: Vec<PathBuf>,
}

impl Mounts {
    /// Reads the system's table. If the read fails, no mount points are known. A mount is then
    /// detected only when a function tries to enter the mount.
    pub fn read() -> Self {
        match std::fs::read(TABLE) {
            Ok(text) => Self::parse(&text),
            Err(err) => {
                tracing::debug!("cannot read the list of mounts {TABLE}: {err}");
                Self::default()
            }
        }
    }

    fn parse(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(MOUNT_POINT));
        Self { points: points.map(|point| PathBuf::from(unescaped(point))).collect() }
    }

    /// The first mount point at or below `name` in `dir`.
    pub fn within(&self, dir: &Dir, name: &CStr) -> Option<&Path> {
        // This path has no symlinks, like the paths in the table. The directory may have been
        // opened through symlinks.
        let link = format!("/proc/thread-self/fd/{}", dir.as_fd().as_raw_fd());
        let path = std::fs::read_link(link).ok()?.join(OsStr::from_bytes(name.to_bytes()));
        self.points.iter().find(|point| point.starts_with(&path)).map(PathBuf::as_path)
    }

    /// Fails if there is a mount point at or below `name` in `dir`.
    pub fn check(&self, dir: &Dir, name: &CStr, action: &'static str) -> Result<()> {
        let Some(point) = self.within(dir, name) else { return Ok(()) };
        Err(Error::io(action, dir.path_of(name), mounted(point)))
    }
}

/// The cause of the error for a mount at `point`.
fn mounted(point: &Path) -> io::Error {
    let reason = format!("something is mounted on {}", point.display());
    io::Error::new(io::ErrorKind::CrossesDevices, reason)
}

/// Decodes a field of the table. In the table, a space is `\040`. A tab, a newline and a backslash
/// are escaped in the same way.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Whether two open files are on the same mount, for systems without `openat2`. A bind mount has
/// the device of its source, so comparing devices is not enough.
pub(super) fn same_mount(one: impl AsFd, other: impl AsFd) -> bool {
    match (mount_of(&one), mount_of(&other)) {
        (Some(one), Some(other)) => one == other,
        _ => match (fs::fstat(&one), fs::fstat(&other)) {
            (Ok(one), Ok(other)) => one.st_dev == other.st_dev,
            _ => false,
        },
    }
}

/// The number of an open file's mount. The number comes from `statx` since Linux 5.8, or else from
/// `/proc` since Linux 3.15.
fn mount_of(file: impl AsFd) -> Option<u64> {
    let known = fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok();
    let known = known.filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    known.map(|stat| stat.stx_mnt_id).or_else(|| {
        let path = format!("/proc/thread-self/fdinfo/{}", file.as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"36 35 98:0 /mnt1 /srv/a\\040b/data rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:5 / /srv/a\\134b rw - tmpfs none rw\n\nshort\n";
        let mounts = Mounts::parse(text);
        assert_eq!(mounts.points, [Path::new("/srv/a b/data"), Path::new("/srv/a\\b")]);
        assert_eq!(unescaped(b"a\\04"), "a\\04");
        assert_eq!(unescaped(b"a\\"), "a\\");
    }

    #[test]
    fn mounts_below_a_name_are_found_and_mounts_beside_it_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&top, top.join("link")).unwrap();
        let dir = Dir::open(&top.join("link")).unwrap();
        let mounts = Mounts { points: vec![top.join("root/data"), top.join("rooted")] };
        assert_eq!(mounts.within(&dir, c"root"), Some(&*top.join("root/data")));
        assert_eq!(mounts.within(&dir, c"rooted"), Some(&*top.join("rooted")));
        assert_eq!(mounts.within(&dir, c"roo"), None);
        let err = mounts.check(&dir, c"root", "remove").unwrap_err().to_string();
        assert!(err.contains("something is mounted on") && err.ends_with("root/data"), "{err}");
    }

    #[test]
    fn different_mounts_are_distinguished() {
        let (root, proc) = (Dir::open(Path::new("/")).unwrap(), Dir::open(Path::new("/proc")));
        assert!(same_mount(&root, &root));
        assert!(!same_mount(&root, proc.unwrap()));
    }
}
