//! Compares the extended attributes of a file with the expected attributes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs;
use rustix::io::Errno;

use super::dir::Dir;
use crate::error::{Error, Result};
use crate::inode_meta::{Meta, Xattr};

const CAPABILITY: &[u8] = b"security.capability";
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";
/// The length in bytes of an access list that states no more than a mode: a version and three
/// entries (see acl(5)). The system stores such a list as the mode.
const MINIMAL: usize = 4 + 3 * ACL_ENTRY;
const ACL_ENTRY: usize = 8;

/// Whether the file `name` in `dir` has the attributes of `meta`, as far as the filesystem supports
/// these attributes. The file must have no other attributes that an archive could have set. If
/// `owner` is `false`, only attributes in `user.*` count. If `lists` is `false`, access lists do
/// not count.
pub fn has_attributes(
    dir: &Dir,
    name: &CStr,
    meta: &Meta,
    owner: bool,
    lists: bool,
) -> Result<bool> {
    let path = through_descriptor(dir, name);
    let counts = |attribute: &[u8]| {
        let list = attribute == ACCESS_LIST || attribute == DEFAULT_LIST;
        attribute.starts_with(b"user.") || (owner && (attribute == CAPABILITY || (list && lists)))
    };
    let fail = |err: Errno| Error::io("read attributes of", dir.path_of(name), err);
    let found = match list(&path) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(true),
        other => other.map_err(fail)?,
    };
    let expected = |attribute: &[u8]| meta.xattrs.iter().any(|it| *it.name == *attribute);
    let mut names = found.split(|byte| *byte == 0).filter(|attribute| counts(attribute));
    if names.any(|attribute| !expected(attribute)) {
        return Ok(false);
    }
    for xattr in meta.xattrs.iter().filter(|xattr| counts(&xattr.name)) {
        if !has(&path, xattr).map_err(fail)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether new files in `dir` inherit an access list.
pub fn gives_lists(dir: &Dir) -> bool {
    let mut value = [0; 1];
    let found = fs::fgetxattr(dir, DEFAULT_LIST, &mut value[..]);
    matches!(found, Ok(_) | Err(Errno::RANGE))
}

fn has(path: &Path, xattr: &Xattr) -> Result<bool, Errno> {
    let is_acl = xattr.name.starts_with(b"system.posix_acl");
    // The buffer has room for one byte more than the expected value, so a longer value is detected.
    let mut value = vec![0; xattr.value.len() + 1];
    // The name has no NUL, because an archive with a NUL in the name of an attribute was already
    // refused.
    let Ok(name) = CString::new(&*xattr.name) else { return Ok(true) };
    match fs::lgetxattr(path, &*name, &mut value[..]) {
        Ok(length) if is_acl => Ok(same_acl(&value[..length], &xattr.value)),
        Ok(length) => Ok(value[..length] == *xattr.value),
        Err(Errno::NODATA) => Ok(is_acl && xattr.value.len() <= MINIMAL),
        Err(Errno::RANGE) => Ok(false),
        // The attribute was never set, because the filesystem does not support the attribute.
        Err(Errno::OPNOTSUPP) => Ok(true),
        Err(err) => Err(err),
    }
}

/// Whether two access lists are equivalent. In entries that name no user or group, the id does not
/// matter.
fn same_acl(one: &[u8], other: &[u8]) -> bool {
    let entries = |list: &[u8]| -> Vec<[u8; ACL_ENTRY]> {
        let (entries, _) = list.get(4..).unwrap_or_default().as_chunks::<ACL_ENTRY>();
        let numbered = |entry: &[u8; ACL_ENTRY]| matches!(entry[0], 0x02 | 0x08);
        let plain = |entry: &[u8; ACL_ENTRY]| [entry[0], entry[1], entry[2], entry[3], 0, 0, 0, 0];
        entries.iter().map(|it| if numbered(it) { *it } else { plain(it) }).collect()
    };
    entries(one) == entries(other)
}

/// The names of the attributes, each followed by a NUL.
fn list(path: &Path) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; 256];
    loop {
        match fs::llistxattr(path, &mut names[..]) {
            Ok(length) => {
                names.truncate(length);
                return Ok(names);
            }
            Err(Errno::RANGE) if names.len() < 1 << 16 => names.resize(names.len() * 16, 0),
            Err(err) => return Err(err),
        }
    }
}

/// A path to `name` that leads through the descriptor of the open directory. The system reads the
/// attributes of a symlink only by path.
fn through_descriptor(dir: &Dir, name: &CStr) -> PathBuf {
    let dir = format!("/proc/thread-self/fd/{}", dir.as_fd().as_raw_fd());
    PathBuf::from(dir).join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &[u8], value: &[u8]) -> Xattr {
        Xattr { name: name.into(), value: value.into() }
    }

    #[test]
    fn attributes_must_match_exactly() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.create_file(c"file", 0o600).unwrap();
        dir.symlink(c"file", c"link").unwrap();
        let path = temp.path().join("file");
        let meta = |xattrs: &[Xattr]| Meta { xattrs: xattrs.into(), ..Meta::default() };
        let has =
            |xattrs: &[Xattr]| has_attributes(&dir, c"file", &meta(xattrs), true, true).unwrap();
        assert!(has(&[]));
        let set = fs::setxattr(&path, c"user.a", b"one", fs::XattrFlags::empty());
        if set == Err(Errno::OPNOTSUPP) {
            return;
        }
        set.unwrap();
        assert!(!has(&[]));
        assert!(has(&[xattr(b"user.a", b"one")]));
        for value in [&b"on"[..], b"two", b"one more"] {
            assert!(!has(&[xattr(b"user.a", value)]));
        }
        assert!(!has(&[xattr(b"user.a", b"one"), xattr(b"user.b", b"")]));
        // The link itself has no attributes, even if its target has attributes.
        assert!(has_attributes(&dir, c"link", &meta(&[]), true, true).unwrap());
    }

    #[test]
    fn access_lists_are_compared_by_meaning() {
        let list = |number: u8, permissions: u8| {
            let owner = [0x01, 0, 7, 0, number, number, number, number];
            let user = [0x02, 0, permissions, 0, 5, 0, 0, 0];
            [&[2, 0, 0, 0][..], &owner, &user].concat()
        };
        assert!(same_acl(&list(0, 4), &list(0xff, 4)));
        assert!(!same_acl(&list(0, 4), &list(0, 6)));
        assert!(!same_acl(&list(0, 4), &list(0, 4)[..12]));
    }
}
