//! Removes a directory with all its contents, at any depth. The removal never enters a mount. If a
//! file cannot be removed, this file and its parent directories stay, and all other files are
//! removed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::fault;
use super::mounts::Mounts;
use crate::error::{Error, Result};

/// The maximum number of nested directories that are open at the same time.
const OPEN: usize = 100;
/// The prefix of the temporary name that a directory gets when it is moved before its removal. If a
/// crash leaves such a directory among the roots, the next start of the agent removes the
/// directory.
const GONE: &str = ".gone";

impl Dir {
    /// Removes `name` and everything below `name`. If `name` does not exist, the method succeeds. A
    /// file that cannot be removed stays, together with the directories above the file. In this
    /// case, the method removes the other files and returns the first error.
    pub fn remove_tree(&self, name: &CStr) -> Result<()> {
        match self.stat(name) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => return self.remove_leaf(name),
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err),
        }
        let mut removal = Removal { top: self, moved: vec![name.to_owned()], first: None };
        while let Some(name) = removal.moved.pop() {
            removal.directory(self, &name, 1);
        }
        removal.first.map_or(Ok(()), Err)
    }

    /// Like [`Dir::remove_tree`], but fails without any change if there is a mount point at or
    /// below `name`.
    pub fn remove_unmounted(&self, name: &CStr, mounts: &Mounts) -> Result<()> {
        mounts.check(self, name, "remove")?;
        self.remove_tree(name)
    }

    fn remove_leaf(&self, name: &CStr) -> Result<()> {
        match fault::step().and_then(|()| fs::unlinkat(self, name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(Error::io("remove", self.path_of(name), self.why(name, err))),
        }
    }

    /// Whether `name` is immutable or append-only (chattr(1)).
    pub fn is_fixed(&self, name: &CStr) -> bool {
        !self.fixed(name, AtFlags::SYMLINK_NOFOLLOW).is_empty()
    }

    fn fixed(&self, name: &CStr, flags: AtFlags) -> StatxAttributes {
        let stat = fs::statx(self, name, flags, StatxFlags::empty());
        let attributes = stat.map_or(StatxAttributes::empty(), |stat| stat.stx_attributes);
        attributes & (StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
    }

    /// Converts `err`, the error with which the system refused to remove or rename `name`. The new
    /// error states the reason in more detail, if the reason can be determined.
    pub(super) fn why(&self, name: &CStr, err: Errno) -> io::Error {
        let reason = match err {
            Errno::BUSY => "something is mounted on it, or it is in use",
            Errno::PERM | Errno::ACCESS => {
                let own = self.fixed(name, AtFlags::SYMLINK_NOFOLLOW);
                let above = self.fixed(c"", AtFlags::EMPTY_PATH);
                if own.contains(StatxAttributes::IMMUTABLE) {
                    "it is immutable; remove the flag with chattr -i"
                } else if above.contains(StatxAttributes::IMMUTABLE) {
                    "its directory is immutable; remove the flag with chattr -i"
                } else if !own.is_empty() {
                    "it is append-only; remove the flag with chattr -a"
                } else if !above.is_empty() {
                    "its directory is append-only; remove the flag with chattr -a"
                } else {
                    return err.into();
                }
            }
            _ => return err.into(),
        };
        io::Error::new(io::Error::from(err).kind(), reason)
    }

    /// Opens the directory `name`. If the mode of the directory denies access to its owner, the
    /// method first changes the mode.
    pub(crate) fn child_opened_up(&self, name: &CStr) -> Result<Self> {
        match self.child_within(name) {
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
        // The mode is changed through a descriptor, because a symlink may have replaced the
        // directory by now.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let closed: OwnedFd = fs::openat(self, name, flags, Mode::empty())
            .map_err(|err| self.error("open directory", name, err))?;
        fs::chmod(format!("/proc/thread-self/fd/{}", closed.as_raw_fd()), Mode::RWXU)
            .map_err(|err| self.error("chmod", name, err))?;
        self.child_within(name)
    }
}

struct Removal<'a> {
    top: &'a Dir,
    /// Directories below the depth [`OPEN`] are moved to `top`, and are removed later. These are
    /// their temporary names in `top`.
    moved: Vec<CString>,
    /// The first error.
    first: Option<Error>,
}

impl Removal<'_> {
    fn directory(&mut self, parent: &Dir, name: &CStr, depth: usize) {
        match parent.child_opened_up(name).and_then(|dir| {
            let items = dir.list()?;
            Ok((dir, items))
        }) {
            Ok((dir, items)) => self.contents(&dir, &items, depth),
            Err(err) if err.is_not_found() => return,
            Err(err) => return self.note(err),
        }
        match fault::step().and_then(|()| fs::unlinkat(parent, name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT) => {}
            // The directory is not empty, because the removal of an entry failed. That error is
            // already recorded.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.first.is_some() => {}
            Err(err) => {
                let why = parent.why(name, err);
                self.note(Error::io("remove directory", parent.path_of(name), why));
            }
        }
    }

    fn contents(&mut self, dir: &Dir, items: &[super::Item], depth: usize) {
        let unwritable = fs::fstat(dir).is_ok_and(|stat| stat.st_mode & 0o300 != 0o300);
        if unwritable {
            // If the mode cannot be changed, the removal of the entries fails, and that error
            // states the reason.
            let _ = fs::fchmod(dir, Mode::RWXU);
        }
        for item in items {
            if item.kind != FileType::Directory {
                if let Err(err) = dir.remove_leaf(&item.name) {
                    self.note(err);
                }
                continue;
            }
            if depth >= OPEN
                && let Ok(gone) = dir.move_to_temp(&item.name, self.top, GONE)
            {
                self.moved.push(gone);
                continue;
            }
            self.directory(dir, &item.name, depth + 1);
        }
    }

    fn note(&mut self, err: Error) {
        self.first.get_or_insert(err);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn removal_opens_directories_that_deny_access_and_follows_no_links() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let dir = Dir::open_or_create(&temp.path().join("a/b"), 0o700).unwrap();
        dir.make_dir(c"tree", 0o755).unwrap();
        let tree = dir.child(c"tree").unwrap();
        tree.symlink(&CString::new(outside.as_os_str().as_bytes()).unwrap(), c"link").unwrap();
        tree.make_dir(c"closed", 0o755).unwrap();
        tree.child(c"closed").unwrap().create_file(c"file", 0o600).unwrap();
        fs::chmodat(&tree, c"closed", Mode::empty(), AtFlags::empty()).unwrap();
        dir.remove_tree(c"tree").unwrap();
        assert!(dir.list().unwrap().is_empty());
        assert!(outside.join("kept").exists());
        dir.remove_tree(c"tree").unwrap();
    }

    #[test]
    fn removal_of_deep_trees_needs_few_open_files() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut deepest = top.child_or_make(c"tree", 0o700).unwrap();
        for _ in 0..3 * OPEN {
            deepest.create_file(c"file", 0o600).unwrap();
            deepest = deepest.child_or_make(c"d", 0o700).unwrap();
        }
        drop(deepest);
        let mut removal = Removal { top: &top, moved: Vec::new(), first: None };
        removal.directory(&top, c"tree", 1);
        assert!(removal.first.is_none());
        assert_eq!(top.list().unwrap().len(), 1, "the deeper part was moved to the top");
        assert_eq!(top.list().unwrap()[0].name, removal.moved[0]);
        let rest = removal.moved.pop().unwrap();
        top.remove_tree(&rest).unwrap();
        assert!(top.list().unwrap().is_empty());
    }
}
