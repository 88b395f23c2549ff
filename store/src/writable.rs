//! Matches the files that a service writes to. Each root gets its own copy of these files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet};

use crate::disk::{Dir, replace_file};
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;

/// The name of a file in the agent's directory. The file contains the patterns of the agent that
/// last used the directory, one pattern per line. Programs that compare roots read this file.
const FILE: &str = "writable";

/// Patterns for paths in a root. A leading slash in a pattern is ignored. `*` matches any
/// characters except slashes, `?` matches one character except a slash, and `**` matches whole
/// directories (see the crate globset).
#[derive(Debug, Clone, Default)]
pub struct Writable(Option<Arc<GlobSet>>);

impl Writable {
    /// Compiles `patterns`.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let mut set = GlobSet::builder();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim_start_matches('/');
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            set.add(glob.map_err(|cause| Error::BadGlob { cause })?);
        }
        let set = set.build().map_err(|cause| Error::BadGlob { cause })?;
        Ok(Self(Some(Arc::new(set))))
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `path` matches a pattern.
    pub fn has(&self, path: &EntryPath) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        self.0.as_ref().is_some_and(|set| set.is_match(path))
    }

    /// Reads the patterns of the agent that last used the directory.
    pub(crate) fn read(top: &Dir) -> Result<Self> {
        let name = std::ffi::CString::new(FILE).expect("the name has no NUL");
        if !top.contains(&name)? {
            return Ok(Self(None));
        }
        let path = top.path_of(&name);
        let text = std::io::read_to_string(top.open_file(&name)?)
            .map_err(|err| Error::io("read", &path, err))?;
        Self::new(&text.lines().collect::<Vec<_>>())
    }
}

/// Saves the patterns for other programs.
pub(crate) fn write(dir: &Path, patterns: &[String]) -> Result<()> {
    let path = dir.join(FILE);
    let mut text = patterns.join("\n");
    text.push('\n');
    if patterns.is_empty() {
        text.clear();
    }
    if std::fs::read_to_string(&path).unwrap_or_default() == text {
        return Ok(());
    }
    replace_file(&path, text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn patterns_match_whole_paths() {
        let writable = Writable::new(&["/var/**", "etc/*.db"]).unwrap();
        let has = |path: &str| {
            writable.has(&EntryPath::from_archive(path.as_bytes(), Limits::STANDARD).unwrap())
        };
        assert!(has("var/a/b") && has("var/x") && has("etc/users.db"));
        assert!(!has("etc/a/users.db") && !has("srv/var/x") && !has("etc/users"));
        assert!(Writable::new(&["a["]).unwrap_err().to_string().contains("a["));
        assert!(Writable::new::<&str>(&[]).unwrap().is_empty());
    }
}
