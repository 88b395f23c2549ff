//! Defines the entries of a layer. The path of an entry never leads out of the root.

use std::cmp::Ordering;
use std::fmt;

pub use super::content::Content;
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::limits::Limits;

/// The maximum length of a part of a path, in bytes. This is the limit of Linux filesystems.
const MAX_PART: usize = 255;

/// A path below a root. Its parts are joined by single slashes. No part is empty, is `.` or `..`,
/// or contains a NUL. The empty path is the root itself. Paths are ordered part by part, so the
/// paths below a directory directly follow the directory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(Box<[u8]>);

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path of the entry.
    pub path: EntryPath,
    /// The kind of the entry.
    pub kind: Kind,
    /// The metadata of the inode. The metadata of a hardlink are ignored.
    pub meta: Meta,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// The length in bytes.
        size: u64,
        /// The digest of the file's contents.
        content: Content,
    },
    /// A hardlink: another name of the file at this path.
    Hardlink(EntryPath),
    /// A symlink with this target, which is kept byte for byte.
    Symlink(Box<[u8]>),
    /// A fifo.
    Fifo,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
}

/// The numbers of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl EntryPath {
    /// The root itself.
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Converts a name from an archive to a path without unnecessary slashes and `.` parts. A name
    /// that has a `..` part or a NUL, or that exceeds a limit, is refused.
    pub fn from_archive(name: &[u8], limits: Limits) -> Result<Self> {
        let refuse = |reason: &str| Err(bad_entry(name, reason));
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0;
        for part in name.split(|&byte| byte == b'/') {
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                return refuse("its name has a .. part");
            }
            if part.contains(&0) {
                return refuse("its name has a NUL byte");
            }
            if part.len() > MAX_PART {
                return refuse("a part of its name is longer than 255 bytes");
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
            depth += 1;
        }
        if depth > limits.depth {
            return refuse(&format!("its name is deeper than {} directories", limits.depth));
        }
        if path.len() > limits.path_len {
            return refuse(&format!("its name is longer than {} bytes", limits.path_len));
        }
        Ok(Self(path.into()))
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the path is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts from the root down.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|part| !part.is_empty())
    }

    /// Splits the path into the path of the directory above and the last part. Returns `None` for
    /// the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (Self(self.0[..at].into()), &self.0[at + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// The path of the entry `part` in the directory at this path. `part` must be a part of some
    /// [`EntryPath`].
    #[must_use]
    pub fn join(&self, part: &[u8]) -> Self {
        if self.is_root() {
            return Self(part.into());
        }
        Self([&self.0, &b"/"[..], part].concat().into())
    }

    /// Whether `other` is a path below this path.
    pub fn is_above(&self, other: &Self) -> bool {
        self.is_root() && !other.is_root()
            || other.0.len() > self.0.len()
                && other.0.starts_with(&self.0)
                && other.0[self.0.len()] == b'/'
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash sorts before every other byte, so `a/c` comes before `a-b`.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lossy(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", lossy(&self.0))
    }
}

/// Converts at most the first 300 bytes of a name from an archive to text for a message.
pub fn lossy(bytes: &[u8]) -> String {
    let cut = bytes.len().min(300);
    String::from_utf8_lossy(&bytes[..cut]).into_owned()
}

/// An error about the archive entry `name`.
pub fn bad_entry(name: &[u8], reason: impl Into<String>) -> Error {
    Error::BadEntry { entry: lossy(name), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<EntryPath> {
        EntryPath::from_archive(text.as_bytes(), Limits::STANDARD)
    }

    #[test]
    fn names_never_lead_out_of_the_root() {
        for (name, want) in
            [("a/b", "a/b"), ("/a//b/", "a/b"), ("./a/./b", "a/b"), ("", ""), ("//", ""), (".", "")]
        {
            assert_eq!(path(name).unwrap().as_bytes(), want.as_bytes(), "{name:?}");
        }
        let long = "x".repeat(256);
        let deep = "a/".repeat(1001);
        for name in ["..", "a/../b", "../a", "a/..", "a\0b", long.as_str(), deep.as_str()] {
            assert!(path(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn contents_of_a_directory_sort_right_after_it() {
        let mut paths: Vec<_> = ["a-b", "a/c", "a", "a/c/d", "a.x", "", "b"]
            .into_iter()
            .map(|text| path(text).unwrap())
            .collect();
        paths.sort();
        let texts: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["", "a", "a/c", "a/c/d", "a-b", "a.x", "b"]);
        assert!(path("a").unwrap().is_above(&path("a/c/d").unwrap()));
        assert!(!path("a").unwrap().is_above(&path("a-b").unwrap()));
        assert!(EntryPath::root().is_above(&path("a").unwrap()));
    }
}
