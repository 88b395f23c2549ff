//! Repairs a directory that holds most of a tree, entry by entry. Each differing entry is made
//! beside the old entry and replaces it. An entry that cannot be made stays as it is.

use super::paths::{c_name, open_dir};
use super::placer::Placer;
use super::placing::{Placement, Uses};
use super::tree::{Node, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;

/// Repairs `paths` of `root` as far as the objects exist. `scratch` is an empty directory on the
/// same filesystem that nobody else can enter; replaced entries are left there.
pub fn patch<'p>(
    root: &Dir,
    scratch: &Dir,
    tree: &Tree,
    paths: impl IntoIterator<Item = &'p EntryPath>,
    objects: &Objects,
    placement: &Placement,
) {
    let patcher = Patcher { root, scratch, tree, objects, placement };
    for path in paths {
        let Some(node) = tree.get(path) else { continue };
        if let Err(err) = patcher.mend(path, node) {
            tracing::debug!("{path} is not mended: {err}");
        }
    }
}

struct Patcher<'a> {
    root: &'a Dir,
    scratch: &'a Dir,
    tree: &'a Tree,
    objects: &'a Objects,
    placement: &'a Placement,
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
            return Ok(());
        }
        let before = dir.move_to_temp(&c_name, self.scratch, "before")?;
        let moved = self.scratch.rename(&c_name, dir, &c_name);
        if moved.is_err() {
            self.scratch.rename(&before, dir, &c_name)?;
        }
        moved
    }

    /// Makes `node` as `name` in `into`. In a directory, makes as many entries as possible.
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
                tracing::debug!("{} is not made: {err}", path.join(name));
            }
        }
        self.finish(&dir, &directory.meta)
    }

    /// Each entry has a placer of its own: a file with several names is made once for each name.
    fn place(&self, into: &Dir, parent: &EntryPath, name: &[u8], node: &Node) -> Result<()> {
        let mut uses = Uses::default();
        let placement = self.placement.clone();
        Placer::changing(self.objects, placement, self.root, self.tree, &mut uses)
            .place(into, parent, name, node)
    }

    fn finish(&self, dir: &Dir, meta: &Meta) -> Result<()> {
        disk::set_meta(dir, &|| dir.path().to_owned(), meta, self.placement.owner)
    }
}
