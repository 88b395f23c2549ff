//! Defines the metadata of an inode.

/// A time relative to the Unix epoch. If `seconds` is negative, the time is before the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The nanoseconds after the whole seconds. The value is below 10^9.
    pub nanoseconds: u32,
}

/// The permissions, owner, group, time and extended attributes of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// The permission bits, including setuid, setgid and sticky. The value is at most `0o7777`.
    pub mode: u32,
    /// The number of the user that owns the inode.
    pub uid: u32,
    /// The number of the group that owns the inode.
    pub gid: u32,
    /// The time of the last change of the contents.
    pub mtime: Mtime,
    /// The extended attributes that may be restored, sorted by name.
    pub xattrs: Box<[Xattr]>,
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// The name, including the namespace, for example `user.a`.
    pub name: Box<[u8]>,
    /// The value.
    pub value: Box<[u8]>,
}

impl Meta {
    /// The digest of the metadata. An agent that does not restore owners sets `owner` to `false`.
    /// In this case, the digest leaves out the user and the group.
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
