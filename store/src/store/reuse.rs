//! Looking at a root that is there before it is deployed once more: the service that ran in
//! it, or in another one with which it shares files, may have changed it.

use super::Store;
use super::publish::ok_name;
use crate::config::Configuration;
use crate::disk::{name_of, temp_name};
use crate::error::Result;
use crate::root::check::{Scope, check};
use crate::store::spare::DISCARDED;

impl Store {
    /// Compares the files of the published root of `configuration` with what they should
    /// be, as far as their inodes tell, and removes the root if any is missing or altered:
    /// it has to be built again. Returns the names of those. What somebody else put into
    /// the root does not count, and is gone with it. Not for a root that is in use.
    pub fn remove_damaged_root(&self, configuration: &Configuration) -> Result<Vec<String>> {
        let id = configuration.id();
        let mut damaged = Vec::new();
        if !self.is_published(id)? {
            return Ok(damaged);
        }
        let name = name_of(id);
        let tree = self.tree(configuration)?;
        let root = self.unpacked.child(&name)?;
        check(&root, &tree, self.placement.owner, Scope::Files, |path, _| {
            if !self.placement.writable.has(&path) {
                damaged.push(path.to_string());
            }
        })?;
        if !damaged.is_empty() {
            // Without its record it is no root any more, whatever happens next.
            self.roots.remove_file(&name)?;
            self.unpacked.remove_file(&ok_name(id))?;
            let gone = temp_name(DISCARDED);
            self.unpacked.rename(&name, &self.unpacked, &gone)?;
            self.unpacked.remove_tree(&gone)?;
            self.end_watches(None)?;
        }
        Ok(damaged)
    }
}
