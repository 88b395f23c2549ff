//! Applies rules about the owners of files in roots. The rules override the owners that the
//! archives state. With such rules, the agent's script needs no `chown`.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use crate::disk::{Dir, replace_file};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;

/// The name of the file, in the agent's directory, that holds the rules of the agent that used
/// the directory last. Each line is `UID:GID<TAB>PATTERN`. A line may lack a number, or the tab and
/// the pattern. Programs that compare roots read this file.
const FILE: &CStr = c"owners";
/// The maximum number of bytes that are read from the file.
const MOST: u64 = 1 << 20;

/// A rule that gives matching files an owner. If several rules match a file, the last rule applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerRule {
    /// The pattern for paths in a root, in the syntax of [`crate::Writable`]. `None` matches all
    /// paths, including the root itself.
    pub pattern: Option<String>,
    /// The number of the user. `None` keeps the user from the archive.
    pub uid: Option<u32>,
    /// The number of the group. `None` keeps the group from the archive.
    pub gid: Option<u32>,
}

/// The compiled rules about owners.
#[derive(Debug, Clone, Default)]
pub struct Owners(Arc<[Rule]>);

#[derive(Debug)]
struct Rule {
    glob: Option<GlobMatcher>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Owners {
    /// Compiles `rules`.
    pub fn new(rules: &[OwnerRule]) -> Result<Self> {
        let rule = |rule: &OwnerRule| {
            let glob = rule.pattern.as_deref().map(|pattern| {
                let pattern = pattern.trim_start_matches('/');
                GlobBuilder::new(pattern).literal_separator(true).build()
            });
            let glob = glob.transpose().map_err(|cause| Error::BadGlob { cause })?;
            let glob = glob.map(|glob| glob.compile_matcher());
            Ok(Rule { glob, uid: rule.uid, gid: rule.gid })
        };
        Ok(Self(rules.iter().map(rule).collect::<Result<_>>()?))
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the owner in `meta` for the entry at `path`, as the rules state. `file` states whether
    /// the entry is a regular file. As with chown(2), a regular file whose owner changes loses
    /// setuid, setgid and its capabilities.
    pub fn give(&self, path: &EntryPath, meta: &mut Meta, file: bool) {
        if self.is_empty() {
            return;
        }
        let at = Path::new(OsStr::from_bytes(path.as_bytes()));
        let matches = |rule: &&Rule| rule.glob.as_ref().is_none_or(|glob| glob.is_match(at));
        let Some(rule) = self.0.iter().rev().find(matches) else { return };
        let (uid, gid) = (rule.uid.unwrap_or(meta.uid), rule.gid.unwrap_or(meta.gid));
        if (uid, gid) == (meta.uid, meta.gid) {
            return;
        }
        (meta.uid, meta.gid) = (uid, gid);
        if file {
            meta.mode &= !0o6000;
            if meta.xattrs.iter().any(|xattr| &*xattr.name == CAPABILITY) {
                let others = meta.xattrs.iter().filter(|xattr| &*xattr.name != CAPABILITY);
                meta.xattrs = others.cloned().collect();
            }
        }
    }

    /// Reads the rules of the last agent that used the directory.
    pub(crate) fn read(top: &Dir) -> Result<Self> {
        use std::io::Read as _;
        if !top.contains(FILE)? {
            return Ok(Self::default());
        }
        let mut text = String::new();
        top.open_file(FILE)?
            .take(MOST)
            .read_to_string(&mut text)
            .map_err(|err| Error::io("read", top.path_of(FILE), err))?;
        Self::new(&text.lines().filter_map(parse_line).collect::<Vec<_>>())
    }
}

const CAPABILITY: &[u8] = b"security.capability";

/// Saves the rules for other programs.
pub(crate) fn write(dir: &Path, rules: &[OwnerRule]) -> Result<()> {
    let path = dir.join(OsStr::from_bytes(FILE.to_bytes()));
    let text: String = rules.iter().map(line).collect();
    if std::fs::read_to_string(&path).unwrap_or_default() == text {
        return Ok(());
    }
    replace_file(&path, text.as_bytes(), 0o644)
}

fn line(rule: &OwnerRule) -> String {
    let number = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
    let pattern = rule.pattern.as_deref().map(|pattern| format!("\t{pattern}"));
    format!("{}:{}{}\n", number(rule.uid), number(rule.gid), pattern.unwrap_or_default())
}

fn parse_line(line: &str) -> Option<OwnerRule> {
    let (owner, pattern) = match line.split_once('\t') {
        Some((owner, pattern)) => (owner, Some(pattern.to_owned())),
        None => (line, None),
    };
    let (uid, gid) = owner.split_once(':')?;
    let number =
        |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    Some(OwnerRule { pattern, uid: number(uid)?, gid: number(gid)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode_meta::Xattr;
    use crate::limits::Limits;

    fn rules() -> Vec<OwnerRule> {
        let rule = |pattern: Option<&str>, uid, gid| OwnerRule {
            pattern: pattern.map(str::to_owned),
            uid,
            gid,
        };
        vec![rule(None, Some(33), None), rule(Some("/var/**"), Some(34), Some(35))]
    }

    #[test]
    fn last_matching_rule_wins_and_drops_setuid_and_capabilities() {
        let owners = Owners::new(&rules()).unwrap();
        let given = |path: &str, file| {
            let path = EntryPath::from_archive(path.as_bytes(), Limits::STANDARD).unwrap();
            let xattr = |name: &[u8]| Xattr { name: name.into(), value: Box::default() };
            let xattrs = [xattr(b"security.capability"), xattr(b"user.a")].into();
            let mut meta = Meta { mode: 0o6755, uid: 1, gid: 2, xattrs, ..Meta::default() };
            owners.give(&path, &mut meta, file);
            (meta.uid, meta.gid, meta.mode, meta.xattrs.len())
        };
        assert_eq!(given("usr/bin/x", true), (33, 2, 0o755, 1));
        assert_eq!(given("", false), (33, 2, 0o6755, 2));
        assert_eq!(given("var/a/b", true), (34, 35, 0o755, 1));
    }

    #[test]
    fn saved_rules_are_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open(temp.path()).unwrap();
        assert!(Owners::read(&top).unwrap().is_empty());
        write(temp.path(), &rules()).unwrap();
        let text = std::fs::read_to_string(temp.path().join("owners")).unwrap();
        assert_eq!(text, "33:\n34:35\t/var/**\n");
        assert_eq!(text.lines().filter_map(parse_line).collect::<Vec<_>>(), rules());
        assert_eq!(Owners::read(&top).unwrap().0.len(), 2);
        write(temp.path(), &[]).unwrap();
        assert!(Owners::read(&top).unwrap().is_empty());
    }
}
