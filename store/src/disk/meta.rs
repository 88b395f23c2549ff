//! Sets and compares the owner, permissions, attributes and times of files. The metadata of files
//! and directories is set through descriptors. So if another file gets the name of a new file, this
//! other file does not get the metadata.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::dir::{Dir, cstring};
use super::fault;
use crate::error::{Error, Result};
use crate::inode_meta::Meta;

type PathOf<'a> = &'a dyn Fn() -> std::path::PathBuf;

/// Gives the open file or directory the metadata `meta`. If `owner` is `false`, the owner is not
/// set, and only the attributes in `user.*` are set.
pub fn set_meta(fd: impl AsFd, path: PathOf<'_>, meta: &Meta, owner: bool) -> Result<()> {
    if owner {
        set_owner(&fd, path, meta)?;
    }
    // The mode is set after the owner, because a change of owner clears setuid and setgid.
    set_mode(&fd, path, mode_of(meta, owner))?;
    set_xattrs(&fd, path, meta, owner)?;
    set_times(&fd, path, meta)
}

/// The permissions of `meta`. If `owner` is `false`, setuid and setgid are left out, because the
/// file belongs to the user of this process.
pub fn mode_of(meta: &Meta, owner: bool) -> u32 {
    if owner { meta.mode } else { meta.mode & !0o6000 }
}

/// Gives the open file or directory the user and group of `meta`.
pub(crate) fn set_owner(fd: impl AsFd, path: PathOf<'_>, meta: &Meta) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    fault::step()
        .and_then(|()| fs::fchown(&fd, Some(uid), Some(gid)))
        .map_err(|err| Error::io("change owner of", path(), err))
}

/// Gives the open file or directory the permissions `mode`.
pub(crate) fn set_mode(fd: impl AsFd, path: PathOf<'_>, mode: u32) -> Result<()> {
    fault::step()
        .and_then(|()| fs::fchmod(&fd, Mode::from_raw_mode(mode)))
        .map_err(|err| Error::io("change mode of", path(), err))
}

pub(super) fn set_xattrs(fd: impl AsFd, path: PathOf<'_>, meta: &Meta, owner: bool) -> Result<()> {
    for xattr in &meta.xattrs {
        if !owner && !xattr.name.starts_with(b"user.") {
            continue;
        }
        let name = cstring(std::os::unix::ffi::OsStrExt::from_bytes(&xattr.name), &path())?;
        match fs::fsetxattr(&fd, &*name, &xattr.value, XattrFlags::empty()) {
            // The filesystem does not support such attributes, so the file is correct without them.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(err) => return Err(Error::io("set attribute of", path(), err)),
        }
    }
    Ok(())
}

/// Gives the open file the time of `meta`.
pub fn set_times(fd: impl AsFd, path: PathOf<'_>, meta: &Meta) -> Result<()> {
    fault::step()
        .and_then(|()| fs::futimens(&fd, &times(meta)))
        .map_err(|err| Error::io("set time of", path(), err))
}

/// Whether the inode has the mode of `meta`, as the system stores this mode. If `owner` is set, the
/// inode must also have the owner of `meta`.
pub fn may_be_used_like(stat: &Stat, meta: &Meta, owner: bool) -> bool {
    let mode = stat.st_mode & 0o7777;
    let is_mode = mode == mode_of(meta, owner)
        // The system derives the mode from the access list.
        || (owner && listed_mode(meta) == Some(mode));
    is_mode && (!owner || (stat.st_uid == meta.uid && stat.st_gid == meta.gid))
}

/// The mode of a file with the access list of `meta`, if there is such a list (acl(5)). The mode
/// has the permissions of the owner, of the mask (or else the group), and of others.
fn listed_mode(meta: &Meta) -> Option<u32> {
    const VERSION: [u8; 4] = [2, 0, 0, 0];
    let list = meta.xattrs.iter().find(|xattr| &*xattr.name == b"system.posix_acl_access")?;
    let (entries, rest) = list.value.strip_prefix(&VERSION)?.as_chunks::<8>();
    let permissions = |tag: u16| {
        let entry = entries.iter().find(|entry| u16::from_le_bytes([entry[0], entry[1]]) == tag)?;
        Some(u32::from(entry[2] & 7))
    };
    let (owner, group, mask, other) = (0x01, 0x04, 0x10, 0x20);
    let group = permissions(mask).or_else(|| permissions(group))?;
    let mode = permissions(owner)? << 6 | group << 3 | permissions(other)?;
    rest.is_empty().then_some(meta.mode & !0o777 | mode)
}

/// Removes from a directory the attributes that are in `before` but not in `now`.
pub fn remove_other_attributes(dir: &Dir, before: &Meta, now: &Meta) -> Result<()> {
    for xattr in &before.xattrs {
        if now.xattrs.iter().any(|other| other.name == xattr.name) {
            continue;
        }
        let name = cstring(std::os::unix::ffi::OsStrExt::from_bytes(&xattr.name), dir.path())?;
        match fs::fremovexattr(dir, &*name) {
            // The attribute was never set, because this process may not set the attribute, or
            // because the filesystem does not support the attribute.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(err) => return Err(Error::io("remove attribute of", dir.path(), err)),
        }
    }
    Ok(())
}

/// Removes each access list that a new file inherited from the default list of its directory
/// (acl(5)). A list that `meta` also has stays.
pub fn remove_inherited(fd: impl AsFd, path: PathOf<'_>, meta: &Meta) -> Result<()> {
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        if meta.xattrs.iter().any(|own| *own.name == *name.to_bytes()) {
            continue;
        }
        match fs::fremovexattr(&fd, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(err) => return Err(Error::io("remove access list of", path(), err)),
        }
    }
    Ok(())
}

/// Sets the time of the symlink, fifo or device `name`. If `owner` is set, also sets the owner. If
/// `mode` is set, also sets the mode. `mode` must be `false` for a symlink, because a symlink has
/// no mode.
pub fn set_meta_at(dir: &Dir, name: &CStr, meta: &Meta, owner: bool, mode: bool) -> Result<()> {
    let fail = |action: &'static str| {
        move |err: rustix::io::Errno| Error::io(action, dir.path_of(name), err)
    };
    if owner {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("change owner of"))?;
    }
    if mode {
        fs::chmodat(dir, name, Mode::from_raw_mode(mode_of(meta, owner)), AtFlags::empty())
            .map_err(fail("change mode of"))?;
    }
    fault::step()
        .and_then(|()| fs::utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW))
        .map_err(fail("set time of"))
}

/// Whether the inode is a regular file of `size` bytes that still has the metadata `meta`. A write
/// through any name of a file changes the file's mtime, so this check detects the write, unless the
/// mtime was set back.
pub fn carries(stat: &Stat, size: u64, meta: &Meta, owner: bool) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && u64::try_from(stat.st_size) == Ok(size)
        && has(stat, meta, owner)
}

/// Whether the inode has the mode and time of `meta`. If `owner` is set, the inode must also have
/// the owner of `meta`. The inode may be of any kind.
pub fn has(stat: &Stat, meta: &Meta, owner: bool) -> bool {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX);
    may_be_used_like(stat, meta, owner)
        && is_kept(meta.mtime.seconds, stat.st_mtime)
        // Some filesystems store only whole seconds.
        && (nanoseconds == meta.mtime.nanoseconds || nanoseconds == 0)
}

/// Whether a filesystem that was given the time `want` may return `got`. A time outside the
/// filesystem's range becomes the nearest time in the range. The function expects that this nearest
/// time is never between `FIRST` and `LAST`. These two constants are the limits of the range of
/// ext4 with small inodes, and of XFS without large times.
fn is_kept(want: i64, got: i64) -> bool {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = i32::MAX as i64;
    got == want || (want < got && got <= FIRST) || (want > got && got >= LAST)
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: meta.mtime.seconds,
            tv_nsec: i64::from(meta.mtime.nanoseconds),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode_meta::Xattr;

    #[test]
    fn times_out_of_range_are_clamped() {
        assert!(is_kept(5, 5) && !is_kept(5, 6) && !is_kept(6, 5));
        // ext4 stores the year 1754 as 1901, and the year 146 billion as 2446.
        assert!(is_kept(-6_800_000_000, -2_147_483_648) && is_kept(1 << 62, 15_032_385_535));
        assert!(!is_kept(-6_800_000_000, 0) && !is_kept(1 << 62, 1_764_400_000));
    }

    #[test]
    fn mode_follows_the_access_list() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let list = |entries: &[Vec<u8>]| Meta {
            mode: 0o4644,
            xattrs: [Xattr {
                name: b"system.posix_acl_access"[..].into(),
                value: [&[2, 0, 0, 0], &entries.concat()[..]].concat().into(),
            }]
            .into(),
            ..Meta::default()
        };
        let (user, group, other) = (entry(1, 6, 0), entry(4, 4, 0), entry(32, 4, 0));
        let plain = [user.clone(), group.clone(), other.clone()];
        assert_eq!(listed_mode(&list(&plain)), Some(0o4644));
        let masked = [user, entry(2, 7, 1000), group, entry(16, 7, 0), other];
        assert_eq!(listed_mode(&list(&masked)), Some(0o4674));
        assert_eq!(listed_mode(&list(&plain[..2])), None, "the list has no entry for others");
        assert_eq!(listed_mode(&Meta::default()), None);
    }
}
