//! Checks an existing root before the root is deployed again. The service in the root, or a service
//! in another root with shared files, may have changed the root.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{describe, root_meta};
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{self, Dir, Mounts, name_of};
use crate::error::{Error, Result};
use crate::layer;
use crate::layer::entry::{Content, EntryPath};
use crate::root::check::{Drift, Scope, Written, check};
use crate::root::patch::patch;
use crate::root::paths::{c_name, open_dir, open_parent};
use crate::root::tree::{Node, Tree};
use crate::store::Store;
use crate::store::names::{UNFINISHED, is_directory, ok_name};

/// A published root that differs from its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drifted {
    /// The paths that differ, or the reason why the differences cannot be determined.
    pub names: Vec<String>,
    /// Whether an entry is missing, is of another kind or cannot be examined. A service that writes
    /// to files does not cause such a difference.
    pub lacking: bool,
    /// The path of a mount in the root, if there is any mount. A root with a mount must not be
    /// replaced.
    pub mounted: Option<PathBuf>,
}

impl Store {
    /// Compares the inodes of the published root of `configuration` with the configuration.
    /// Additional files, and files that a service may write to, do not count as differences. An
    /// error during the comparison counts as damage. Returns `None` if the root is sound or does
    /// not exist.
    pub fn drifted_root(&self, configuration: &Configuration) -> Option<Drifted> {
        let id = configuration.id();
        let name = name_of(id);
        let compared = (|| {
            if !self.roots.contains(&name)? || !self.unpacked.contains(&name)? {
                return Ok(Vec::new());
            }
            Ok(self.drift_of(&name, &self.tree(configuration)?))
        })();
        let lacks = |(_, drift): &(EntryPath, Drift)| drift.is_lack();
        let (names, lacking) = match compared {
            Ok(drifts) if drifts.is_empty() => return None,
            Ok(drifts) => {
                let lacking = drifts.iter().any(lacks);
                (drifts.into_iter().map(|(path, _)| named(&path)).collect(), lacking)
            }
            Err(err) => (vec![format!("it cannot be compared: {}", Error::to_string(&err))], true),
        };
        let mounts = Mounts::read();
        let mounted = mounts.within(&self.unpacked, &name).map(std::path::Path::to_owned);
        Some(Drifted { names, lacking, mounted })
    }

    /// Repairs the published root of `configuration` in place, entry by entry, as far as the cache
    /// has the contents. Returns the paths that still differ. The root must not be in use.
    pub fn mend_root(&self, configuration: &Configuration) -> Result<Vec<String>> {
        let name = name_of(configuration.id());
        let tree = self.tree(configuration)?;
        let root = self.unpacked.child_within(&name)?;
        let drifts = self.drift_of(&name, &tree);
        if drifts.iter().any(|(path, _)| path.split().is_none()) {
            describe(&root, &tree, self.placement.owner)?;
        }
        let scratch = self.unpacked.make_temp(UNFINISHED, 0o700)?;
        let paths = drifts.iter().map(|(path, _)| path);
        let dir = self.unpacked.child(&scratch)?;
        patch(&root, &dir, &tree, paths.collect(), &self.objects, &self.placement);
        self.remove_retired(&scratch);
        Ok(self.drift_of(&name, &tree).into_iter().map(|(path, _)| named(&path)).collect())
    }

    /// Adopts the directory at the path of the root of `configuration`, if the directory has no
    /// record and matches the configuration. The method compares the contents of every file. If the
    /// root is `in_use`, its service may have written to files. Such a root is adopted despite
    /// differences, unless an entry is missing, is of another kind or cannot be examined. A root
    /// that contains a mount is always adopted, because such a root cannot be replaced. Returns the
    /// paths that differ, or `None` if nothing is adopted.
    pub fn adopt_root(
        &self,
        configuration: &Configuration,
        in_use: bool,
    ) -> Result<Option<Vec<String>>> {
        let id = configuration.id();
        let name = name_of(id);
        if self.is_published(id)? || !is_directory(&self.unpacked, &name)? {
            return Ok(None);
        }
        let tree = self.tree(configuration)?;
        let mut drifts = self.drift_of(&name, &tree);
        let mounted = Mounts::read().within(&self.unpacked, &name).is_some();
        let lacks = |(_, drift): &(EntryPath, Drift)| drift.is_lack();
        if !mounted && (drifts.iter().any(lacks) || !(in_use || drifts.is_empty())) {
            return Ok(None);
        }
        self.compare_contents(&name, &tree, &mut drifts)?;
        if !(mounted || in_use || drifts.is_empty()) {
            return Ok(None);
        }
        self.mark(configuration)?;
        self.mark_for_go(id)?;
        Ok(Some(drifts.into_iter().map(|(path, _)| named(&path)).collect()))
    }

    /// Adopts the directory at the path of the root of `configuration`, if the directory has no
    /// record and cannot be compared. A comparison is impossible if some layers are not extracted.
    /// The directory is probably complete, because this program gives a root its name only when the
    /// root is complete. Returns `true` if the directory was adopted.
    pub fn adopt_unseen_root(&self, configuration: &Configuration) -> Result<bool> {
        let id = configuration.id();
        let is_there = !self.is_published(id)? && is_directory(&self.unpacked, &name_of(id))?;
        if !is_there || self.tree(configuration).is_ok() {
            return Ok(false);
        }
        self.mark(configuration)?;
        self.mark_for_go(id)?;
        Ok(true)
    }

    /// The paths of the directory `name` that differ from `tree`.
    fn drift_of(&self, name: &CStr, tree: &Tree) -> Vec<(EntryPath, Drift)> {
        let mut drifts = Vec::new();
        let written = Written::new(tree, &self.placement.writable);
        let is_written = |path: &EntryPath| tree.get(path).is_some_and(|it| written.has(path, it));
        let checked = self.unpacked.child_within(name).and_then(|root| {
            if !self.has_own_top(name, tree)? {
                drifts.push((EntryPath::root(), Drift::Altered));
            }
            let scope = Scope::Kept { lists: !disk::gives_lists(&self.unpacked) };
            check(&root, tree, self.placement.owner, scope, self.meter(), |path, drift| {
                if drift.is_lack() || !is_written(&path) {
                    drifts.push((path, drift));
                }
            })
        });
        let compared = checked.and_then(|()| self.compare_touched(name, tree, &mut drifts));
        if compared.is_err() {
            drifts.push((EntryPath::root(), Drift::Other));
        }
        drifts
    }

    /// Adds to `drifts` the files whose bytes differ from `tree` although their size and mtime
    /// match. For example, a process may have written to a file and then set back the mtime. The
    /// ctime of such a file is later than the mark of the root, because no process can set a ctime.
    /// Files whose ctime this program itself changed are left out.
    fn compare_touched(
        &self,
        name: &CStr,
        tree: &Tree,
        drifts: &mut Vec<(EntryPath, Drift)>,
    ) -> Result<()> {
        let told: BTreeSet<EntryPath> = drifts.iter().map(|(path, _)| path.clone()).collect();
        let root = self.unpacked.child_within(name)?;
        let built = self.built(name);
        let written = Written::new(tree, &self.placement.writable);
        let mut open: Option<(EntryPath, Option<Dir>)> = None;
        for (path, node) in tree.walk() {
            let (Node::File(file), Some((parent, name))) = (node, path.split()) else { continue };
            if told.contains(&path) || written.has(&path, node) {
                continue;
            }
            if open.as_ref().is_none_or(|(path, _)| *path != parent) {
                // If the parent is not a directory, this difference was already reported.
                let Ok(dir) = open_dir(&root, &parent) else { continue };
                open = Some((parent.clone(), dir));
            }
            let Some((_, dir)) = &open else { continue };
            let dir = dir.as_ref().unwrap_or(&root);
            let Ok(stat) = dir.stat(&c_name(name)?) else { continue };
            let untouched = built
                .is_some_and(|built| time_of(stat.st_ctime, stat.st_ctime_nsec) < built)
                || self.object_of(file, &stat).is_some();
            if !untouched && content_of(&root, &path).ok() != Some(file.content) {
                drifts.push((path, Drift::Altered));
            }
        }
        Ok(())
    }

    /// The time at which the root `name` was complete. Unchanged entries of the root are older.
    /// `None` if this time is not known, or if the clock was set back since then.
    fn built(&self, name: &CStr) -> Option<i128> {
        let id = crate::disk::digest_of(name);
        let mark = self.unpacked.stat(&ok_name(id?)).ok()?;
        let record = self.roots.stat(name).ok()?;
        let [mark, record] = [mark, record].map(|stat| time_of(stat.st_mtime, stat.st_mtime_nsec));
        let built = mark.min(record);
        // If the clock was set back, a later write may have an earlier ctime than the mark.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos());
        i128::try_from(now).is_ok_and(|now| now >= built).then_some(built)
    }

    /// Whether the root directory has the metadata that its archives state. If the archives state
    /// no metadata, the directory must have the default metadata.
    fn has_own_top(&self, name: &CStr, tree: &Tree) -> Result<bool> {
        let stat = self.unpacked.stat(name)?;
        let own = stat.st_uid == rustix::process::geteuid().as_raw();
        let owner = self.placement.owner;
        let (meta, described) = (root_meta(tree, owner), owner && tree.has_owner());
        Ok((own || described) && disk::may_be_used_like(&stat, &meta, described))
    }

    /// Adds to `drifts` the files whose bytes differ from `tree`. Files that are already in
    /// `drifts` are not added again.
    fn compare_contents(
        &self,
        name: &CStr,
        tree: &Tree,
        drifts: &mut Vec<(EntryPath, Drift)>,
    ) -> Result<()> {
        let root = self.unpacked.child_within(name)?;
        let told: BTreeSet<EntryPath> = drifts.iter().map(|(path, _)| path.clone()).collect();
        let written = Written::new(tree, &self.placement.writable);
        for (path, node) in tree.walk() {
            let Node::File(file) = node else { continue };
            if told.contains(&path) || written.has(&path, node) {
                continue;
            }
            if content_of(&root, &path).ok() != Some(file.content) {
                drifts.push((path, Drift::Altered));
            }
        }
        Ok(())
    }

    /// The path of the first root that the root `id` replaced, if that root is still kept.
    pub(in crate::store) fn replaced(&self, id: Digest) -> Result<Option<PathBuf>> {
        let name = crate::store::names::replaced_name(id, 0);
        let there = self.unpacked.contains(&name)?;
        Ok(there.then(|| self.path.join("unpacked").join(&*name.to_string_lossy())))
    }
}

/// A time in nanoseconds since the Unix epoch.
fn time_of(seconds: i64, nanoseconds: impl Into<i128>) -> i128 {
    i128::from(seconds) * 1_000_000_000 + nanoseconds.into()
}

/// Hashes the file at `path`. The root was compared before, so no directory of the path is a
/// symlink.
fn content_of(root: &Dir, path: &EntryPath) -> Result<Content> {
    let (parent, name) = open_parent(root, path)?;
    let dir = parent.as_ref().unwrap_or(root);
    let file: File = dir.open_file(&name)?;
    let (content, _) = layer::content::content_of(&file)
        .map_err(|err| Error::io("read", dir.path_of(&name), err))?;
    Ok(content)
}

fn named(path: &EntryPath) -> String {
    if path.parts().next().is_none() { ".".to_owned() } else { path.to_string() }
}
