//! Switches the symlink that `-current` names. The symlink leads to the deployed root, and each
//! switch is atomic.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use deploy_store::disk::FileType;
use deploy_store::{Error, Result};

use crate::records::state_file::split;

/// The target of the symlink `path`; `None` if `path` does not exist. A file that is not a symlink
/// is an error.
pub fn target(path: &Path) -> Result<Option<PathBuf>> {
    let (dir, name) = split(path)?;
    let stat = match dir.stat(&name) {
        Err(err) if err.is_not_found() => return Ok(None),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let reason = "the path is not a symlink; move the file away, or give another path with \
                      -current";
        return Err(Error::io("switch", path, io::Error::other(reason)));
    }
    std::fs::read_link(path).map(Some).map_err(|err| Error::io("read link", path, err))
}

/// Makes the symlink `path` lead to `root`, atomically. Without a root, the function removes the
/// symlink.
pub fn switch(path: &Path, root: Option<&Path>) -> Result<()> {
    let (dir, name) = split(path)?;
    let Some(root) = root else {
        dir.remove_file(&name)?;
        return dir.sync();
    };
    // The meaning of a relative path depends on the agent's working directory, so the symlink gets
    // an absolute path.
    let root = std::path::absolute(root).map_err(|err| Error::io("find", root, err))?;
    let invalid = || Error::io("link to", &root, io::Error::from(io::ErrorKind::InvalidInput));
    let root_name = CString::new(root.as_os_str().as_bytes()).map_err(|_| invalid())?;
    let temp = format!(".{}.switching", OsStr::from_bytes(name.to_bytes()).display());
    let temp = CString::new(temp).map_err(|_| invalid())?;
    dir.remove_file(&temp)?;
    dir.symlink(&root_name, &temp)?;
    dir.rename(&temp, &dir, &name)?;
    dir.sync()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn switching_leaves_no_other_files() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("current");
        assert_eq!(target(&link).unwrap(), None);
        for root in ["/a/1", "/a/2", "/a/1"] {
            switch(&link, Some(Path::new(root))).unwrap();
            assert_eq!(target(&link).unwrap(), Some(root.into()));
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        switch(&link, None).unwrap();
        assert_eq!(target(&link).unwrap(), None);
    }

    #[test]
    fn only_a_symlink_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("current");
        fs::write(&file, "mine").unwrap();
        assert!(target(&file).unwrap_err().to_string().contains("is not a symlink"));
    }
}
