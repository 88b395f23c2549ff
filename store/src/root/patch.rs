//! Repairs a directory that holds most of a tree, entry by entry. Each differing entry is made
//! again in another directory, and the new entry then replaces the old entry. If an entry cannot be
//! made, the old entry stays.
//!
//! Repaired files share no inode with the cache. Each name of a file is made separately. The names
//! of one file are linked to each other at the end, when all names that could be made exist.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustix::fs::Stat;

use super::apply::linked_files;
use super::paths::{c_name, open_dir, open_parent};
use super::placer::Placer;
use super::placing::{LinkMode, Placement, Uses};
use super::tree::{File, Node, Tree};
use crate::disk::{self, Dir, temp_name};
use crate::error::Result;
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;

/// Repairs the entries at `paths` in `root`, as far as the objects for these entries exist.
/// `scratch` is an empty directory on the same filesystem. No other process can enter this
/// directory. Replaced entries are left in `scratch`.
pub fn patch(
    root: &Dir,
    scratch: &Dir,
    tree: &Tree,
    paths: Vec<&EntryPath>,
    objects: &Objects,
    placement: &Placement,
) {
    let mut placement = placement.clone();
    if placement.mode == LinkMode::Hardlink {
        placement.mode = LinkMode::Copy;
    }
    let patcher = Patcher { root, scratch, tree, objects, placement };
    let mut linked = HashSet::new();
    for path in paths {
        let Some(node) = tree.get(path) else { continue };
        if let Err(err) = patcher.mend(path, node) {
            tracing::debug!("{path} cannot be repaired: {err}");
        }
        linked_files(node, &mut linked);
    }
    for names in patcher.groups(&linked) {
        if let Err(err) = patcher.link(&names) {
            tracing::debug!("{} cannot be linked to its other names: {err}", names[0]);
        }
    }
}

struct Patcher<'a> {
    root: &'a Dir,
    scratch: &'a Dir,
    tree: &'a Tree,
    objects: &'a Objects,
    placement: Placement,
}

impl Patcher<'_> {
    fn mend(&self, path: &EntryPath, node: &Node) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let c_name = c_name(name)?;
        let dir = open_dir(self.root, &parent)?;
        let dir = dir.as_ref().unwrap_or(self.root);
        if let Node::Directory(directory) = node
            && let Ok(there) = dir.child_within(&c_name)
        {
            return self.finish(&there, &directory.meta);
        }
        self.make(self.scratch, &parent, name, node)?;
        if self.scratch.rename_new(&c_name, dir, &c_name)? {
            return self.finish_parent(path);
        }
        let before = dir.move_to_temp(&c_name, self.scratch, "before")?;
        let moved = self.scratch.rename(&c_name, dir, &c_name);
        if moved.is_err() {
            self.scratch.rename(&before, dir, &c_name)?;
        }
        moved.and_then(|()| self.finish_parent(path))
    }

    /// Restores the mtime of the directory that contains `path`, because the repair changed this
    /// mtime.
    fn finish_parent(&self, path: &EntryPath) -> Result<()> {
        let Some((parent, _)) = path.split() else { return Ok(()) };
        match (open_dir(self.root, &parent)?, self.tree.get(&parent)) {
            (Some(dir), Some(Node::Directory(directory))) => self.finish(&dir, &directory.meta),
            _ => Ok(()),
        }
    }

    /// Makes `node` as `name` in `into`. If `node` is a directory, the method makes as many of its
    /// entries as possible.
    fn make(&self, into: &Dir, parent: &EntryPath, name: &[u8], node: &Node) -> Result<()> {
        let Node::Directory(directory) = node else {
            let made = self.place(into, parent, name, node);
            if made.is_err() {
                into.remove_tree(&c_name(name)?)?;
            }
            return made;
        };
        let c_name = c_name(name)?;
        into.make_dir(&c_name, 0o700)?;
        let (dir, path) = (into.child(&c_name)?, parent.join(name));
        for (name, node) in directory.iter() {
            if let Err(err) = self.make(&dir, &path, name, node) {
                tracing::debug!("{} cannot be made: {err}", path.join(name));
            }
        }
        self.finish(&dir, &directory.meta)
    }

    /// Returns, for each file in `linked`, the group of all its names. Files that a service writes
    /// to are left out.
    fn groups(&self, linked: &HashSet<*const File>) -> Vec<Vec<EntryPath>> {
        let mut groups: HashMap<*const File, Vec<EntryPath>> = HashMap::new();
        if !linked.is_empty() {
            for (path, node) in self.tree.walk() {
                let Node::File(file) = node else { continue };
                if linked.contains(&Arc::as_ptr(file)) {
                    groups.entry(Arc::as_ptr(file)).or_default().push(path);
                }
            }
        }
        let is_written = |names: &[EntryPath]| names.iter().any(|n| self.placement.writable.has(n));
        groups.into_values().filter(|names| !is_written(names)).collect()
    }

    /// Finds the first of `names` that matches the tree, and makes the later names hardlinks to
    /// this name.
    fn link(&self, names: &[EntryPath]) -> Result<()> {
        let Some(Node::File(file)) = self.tree.get(&names[0]) else { return Ok(()) };
        let mut first: Option<(&EntryPath, Stat)> = None;
        for path in names {
            let (dir, name) = open_parent(self.root, path)?;
            let dir = dir.as_ref().unwrap_or(self.root);
            let Ok(stat) = dir.stat(&name) else { continue };
            let Some((source, wanted)) = &first else {
                if disk::carries(&stat, file.size, &file.meta, self.placement.owner) {
                    first = Some((path, stat));
                }
                continue;
            };
            if (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino) {
                continue;
            }
            let (source_dir, source) = open_parent(self.root, source)?;
            let temporary = temp_name("link");
            source_dir.as_ref().unwrap_or(self.root).link(&source, self.scratch, &temporary)?;
            self.scratch.rename(&temporary, dir, &name)?;
            self.finish_parent(path)?;
        }
        Ok(())
    }

    /// Makes an entry. Each entry gets its own placer, so a file is made once per name.
    fn place(&self, into: &Dir, parent: &EntryPath, name: &[u8], node: &Node) -> Result<()> {
        let mut uses = Uses::default();
        Placer::changing(self.objects, self.placement.clone(), self.root, self.tree, &mut uses)
            .place(into, parent, name, node)
    }

    fn finish(&self, dir: &Dir, meta: &Meta) -> Result<()> {
        disk::set_meta(dir, &|| dir.path().to_owned(), meta, self.placement.owner)
    }
}
