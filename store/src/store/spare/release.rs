//! Removes files from a retired root if the files are hardlinks to objects. Each removal changes
//! the ctime of a shared inode, so the object is sealed again.

use std::ffi::CStr;

use crate::digest::Digest;
use crate::disk::Dir;
use crate::error::Result;
use crate::layer::entry::EntryPath;
use crate::layer::objects::object_name::ObjectName;
use crate::layer::objects::seals::Sealed;
use crate::root::paths::{c_name, find_dir};
use crate::root::placing::LinkMode;
use crate::root::tree::{File, Node, Tree};
use crate::store::Store;

impl Store {
    /// Removes the shared files from the directory `retired`, which was the root `id`, if the tree
    /// of this root is known. If the removal fails, the files are removed later, with the rest of
    /// the root.
    pub(in crate::store) fn release_root(&self, retired: &CStr, id: Digest) {
        let Some((place, tree)) = self.retire_watch(id, retired) else { return };
        let released =
            self.unpacked.child_within(retired).and_then(|root| self.release(&root, &tree));
        self.end_retired(place, &tree, retired);
        if let Err(err) = released {
            tracing::debug!("objects will be read again: {err}");
        }
    }

    /// Removes the shared files from `root`, which holds `tree` and will be removed. Files that a
    /// process changed stay, and are removed with the rest of the root. The objects of these files
    /// are not sealed again, so the agent reads such an object before it uses the object again.
    pub(in crate::store) fn release(&self, root: &Dir, tree: &Tree) -> Result<()> {
        if self.placement.mode != LinkMode::Hardlink {
            return Ok(());
        }
        let mut open: Option<(EntryPath, Option<Dir>)> = None;
        for (path, node) in tree.walk() {
            let (Node::File(file), Some((parent, name))) = (node, path.split()) else { continue };
            if file.size == 0 {
                continue;
            }
            if open.as_ref().is_none_or(|(path, _)| *path != parent) {
                // If the directory was replaced, its replacement does not belong to this program.
                let Ok(dir) = find_dir(root, &parent) else { continue };
                open = Some((parent, dir));
            }
            let Some((_, dir)) = &open else { continue };
            self.release_file(dir.as_ref().unwrap_or(root), name, file)?;
        }
        Ok(())
    }

    fn release_file(&self, dir: &Dir, name: &[u8], file: &File) -> Result<()> {
        let name = c_name(name)?;
        let Ok(stat) = dir.stat(&name) else { return Ok(()) };
        let Some(object) = self.object_of(file, &stat) else { return Ok(()) };
        dir.remove_file(&name)?;
        self.objects.seal(&object)
    }

    /// Finds the object whose seal matches the inode state `stat`: the object of `file`, or one of
    /// the object's twins.
    pub(in crate::store) fn object_of(
        &self,
        file: &File,
        stat: &rustix::fs::Stat,
    ) -> Option<ObjectName> {
        let names = (0..).map(|twin| self.objects.name(file.content, &file.meta, twin));
        let mut sealed = names.take_while(|name| self.objects.seals().has(name));
        sealed.find(|name| {
            !self.objects.seals().is_new(name)
                && self.objects.seals().of(name, stat) == Sealed::Intact
        })
    }
}
