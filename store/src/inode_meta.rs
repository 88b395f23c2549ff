//! The metadata of an inode.

/// A time relative to the epoch. The time is before the epoch if `seconds` is negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after the whole seconds, below 10^9.
    pub nanoseconds: u32,
}

/// Permissions, owner, time and extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner by number.
    pub uid: u32,
    /// Group by number.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Mtime,
    /// The extended attributes that may be restored, sorted by name.
    pub xattrs: Box<[Xattr]>,
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Name with its namespace.
    pub name: Box<[u8]>,
    /// Value.
    pub value: Box<[u8]>,
}

impl Meta {
    /// A digest over all metadata of an inode. Without `owner`, the digest leaves out the user and
    /// the group, because they are not restored.
    pub fn fingerprint(&self, owner: bool) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        let (uid, gid) = if owner { (self.uid, self.gid) } else { (0, 0) };
        for number in [self.mode, uid, gid, self.mtime.nanoseconds] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.mtime.seconds.to_le_bytes());
        for xattr in &self.xattrs {
            for part in [&xattr.name, &xattr.value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }
}
