//! Removing a directory with all that is in it, however deep.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::dir::Dir;
use super::fault;
use super::file::temp_name;
use crate::error::{Error, Result};

/// Directories that are open at a time, one in the other.
const OPEN: usize = 100;
/// Prefix of directories that are moved to be removed; the next start removes those that a
/// crash leaves among the roots.
const GONE: &str = ".gone";

impl Dir {
    /// Removes `name` and all below it; that it is not there is success.
    pub fn remove_tree(&self, name: &CStr) -> Result<()> {
        let mut moved = Vec::new();
        match self.stat(name) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.remove_directory(name, self, 1, &mut moved)?;
            }
            Ok(_) => return self.remove_file(name),
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err),
        }
        while let Some(name) = moved.pop() {
            self.remove_directory(&name, self, 1, &mut moved)?;
        }
        Ok(())
    }

    /// What is deeper than [`OPEN`] directories is moved to `top`, to be removed from there.
    fn remove_directory(
        &self,
        name: &CStr,
        top: &Self,
        depth: usize,
        moved: &mut Vec<CString>,
    ) -> Result<()> {
        let dir = match self.child(name) {
            // A directory closed to its owner: opened up, since it goes anyway.
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::PermissionDenied => {
                fs::chmodat(self, name, Mode::RWXU, AtFlags::empty())
                    .map_err(|err| self.error("chmod", name, err))?;
                self.child(name)?
            }
            other => other?,
        };
        let unwritable = fs::fstat(&dir).is_ok_and(|stat| stat.st_mode & 0o300 != 0o300);
        if unwritable {
            fs::fchmod(&dir, Mode::RWXU).map_err(|err| self.error("chmod", name, err))?;
        }
        for item in dir.list()? {
            if item.kind != FileType::Directory {
                dir.remove_file(&item.name)?;
                continue;
            }
            if depth >= OPEN {
                let gone = temp_name(GONE);
                if dir.rename(&item.name, top, &gone).is_ok() {
                    moved.push(gone);
                    continue;
                }
            }
            dir.remove_directory(&item.name, top, depth + 1, moved)?;
        }
        match fault::step().and_then(|()| fs::unlinkat(self, name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(err) => Err(self.error("remove directory", name, err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn it_takes_closed_directories_and_never_follows() {
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
    fn depth_takes_no_open_files() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        let mut deepest = top.child_or_make(c"tree", 0o700).unwrap();
        for _ in 0..3 * OPEN {
            deepest.create_file(c"file", 0o600).unwrap();
            deepest = deepest.child_or_make(c"d", 0o700).unwrap();
        }
        drop(deepest);
        let mut moved = Vec::new();
        top.remove_directory(c"tree", &top, 1, &mut moved).unwrap();
        assert_eq!(top.list().unwrap().len(), 1, "the deeper part waits");
        assert_eq!(top.list().unwrap()[0].name, moved[0]);
        let rest = moved.pop().unwrap();
        top.remove_tree(&rest).unwrap();
        assert!(top.list().unwrap().is_empty());
    }
}
