//! Gives objects new inodes. The file at a private path is copied from its object. But an earlier
//! root may still share the object's inode, or a process may have the inode open for writing. A
//! write to this inode would damage the object, and the agent would have to fetch the layer again.

use std::collections::HashSet;

use crate::disk::{Writers, writers};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::content::copy_content;
use crate::layer::objects::batch::Batch;
use crate::layer::objects::object_name::{Naming, ObjectName};
use crate::root::tree::{Node, Tree};
use crate::store::Store;

impl Store {
    /// Renews the objects of the private files of `tree`, if other processes can reach these
    /// objects. Returns the renewed objects. A root that has the old inode of a renewed object does
    /// not share the object any more.
    pub(in crate::store) fn renew_private(&self, tree: &Tree) -> Result<HashSet<ObjectName>> {
        let mut renewed = HashSet::new();
        if self.objects.naming() == Naming::Contents || self.placement.learned.is_empty() {
            return Ok(renewed);
        }
        let batch = Batch::begin(&self.objects)?;
        for (path, _) in self.placement.learned.all() {
            let Some(Node::File(file)) = tree.get(&path) else { continue };
            let name = self.objects.name(file.content, &file.meta, 0);
            if file.size > 0
                && !renewed.contains(&name)
                && self.is_reachable(&name)?
                && self.copy_object(&batch, &name, file.size, &file.meta)?
            {
                renewed.insert(name);
            }
        }
        if batch.written() > 0 {
            batch.sync()?;
            batch.publish()?;
        }
        Ok(renewed)
    }

    /// Whether another process can change the object.
    fn is_reachable(&self, name: &ObjectName) -> Result<bool> {
        if self.objects.seals().is_new(name) {
            return Ok(false);
        }
        // If the object is not a regular file, the damage is found and repaired when the object is
        // next used.
        let Ok(Some(file)) = self.objects.open_named(name) else { return Ok(false) };
        let stat = rustix::fs::fstat(&file)
            .map_err(|err| Error::io("stat", self.objects.path_of(name), err))?;
        Ok(stat.st_nlink > 1 || writers(&file) == Writers::Some)
    }

    /// Copies an object if its contents are correct. Returns whether the contents are correct.
    /// Damage is found and repaired when the object is next used.
    fn copy_object(&self, to: &Batch, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        let Some(from) = self.objects.open_named(name)? else { return Ok(false) };
        let writing = to.begin_file()?;
        let same = copy_content(&from, writing.file(), size, name.content())
            .map_err(|err| Error::io("copy", self.objects.path_of(name), err))?;
        if same {
            writing.finish_anew(name, meta)?;
        }
        Ok(same)
    }
}
