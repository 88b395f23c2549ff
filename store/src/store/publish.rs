//! Builds a root, and publishes the complete and synced root under its id.

mod adopt;
mod mend;
pub(super) mod probe;
mod renew;
pub(super) mod reuse;
pub(super) mod trees;

use std::ffi::{CStr, CString};
use std::sync::Arc;

use super::messages::log_private_files;
use super::names::{
    REPLACED, RETIRED, TEMPORARY, UNFINISHED, is_directory, ok_name, replaced_name,
};
use super::spare::Made;
use super::sweep::leftovers::{Left, complete_removals, forget_ids, has_record, remove_all_but};
use super::{Root, Store};
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{self, Dir, Mounts, name_of};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::meter::Unit;
use crate::root::build;
use crate::root::placing::{Built, Placed, Placement};
use crate::root::tree::Tree;

impl Store {
    /// Builds and publishes the root of `configuration`, whose layers must be extracted. If the
    /// root exists, the method does not build the root again. Because of a damaged object, a layer
    /// may have to be extracted again. If the blob of this layer is missing, the method fails with
    /// [`Error::NoSuchBlob`]. In this case, download the blob, call [`Store::extract`], and call
    /// this method again.
    pub fn root(&self, configuration: &Configuration) -> Result<Root> {
        let id = configuration.id();
        if !self.is_published(id)? {
            return self.rebuild_root(configuration);
        }
        self.flush_pending()?;
        if self.marked(id).is_err() {
            self.mark(configuration)?;
        }
        self.mark_for_go(id)?;
        let (path, placed) = (self.root_path(id), Placed::default());
        let (replaced, changed) = (self.replaced(id)?, Vec::new());
        Ok(Root { id, path, reused: true, from_spare: false, placed, replaced, changed })
    }

    /// Like [`Store::root`], but builds the root even if the root exists. The complete new root and
    /// the existing root exchange their names, in one step if the filesystem supports such an
    /// exchange. The existing root is kept (see [`Root::replaced`]).
    pub fn rebuild_root(&self, configuration: &Configuration) -> Result<Root> {
        let id = configuration.id();
        let path = self.root_path(id);
        let tree = self.tree(configuration)?;
        let changed = self.use_spare(&tree);
        let from_spare = changed.is_some();
        let (staging, built, watch) = match changed {
            Some(Made { name, built, watch }) => {
                finish(&self.unpacked.child(&name)?, &tree, self.placement.owner)?;
                (name, built, watch)
            }
            None => {
                // No spare is used, so the events that the watches reported so far are not needed.
                self.watch_anew()?;
                let (name, built) = self.mending(&tree, configuration, || self.build(&tree))?;
                let watch = self.watch_shared(&name, &tree);
                (name, built, watch)
            }
        };
        self.publish_pending()?;
        let published = self.publish(id, &staging);
        if published.is_err() {
            self.remove_retired(&staging);
        }
        if let Some(aside) = published? {
            self.watch_aside(id, aside);
        }
        self.publish_watch(id, watch, &tree);
        if self.marked(id).ok().as_ref() != Some(configuration) {
            self.mark(configuration)?;
        }
        self.mark_for_go(id)?;
        log_private_files(&built.changed.into_iter().collect());
        self.placement.learned.write(&self.path)?;
        if !built.skipped.is_empty() {
            let names: Vec<String> = built.skipped.iter().map(|path| format!("{path:?}")).collect();
            tracing::warn!(
                "device files are left out, because only the user root can create them: {}",
                names.join(", ")
            );
        }
        let (placed, replaced, changed) = (built.placed, self.replaced(id)?, Vec::new());
        Ok(Root { id, path, reused: false, from_spare, placed, replaced, changed })
    }

    /// Whether the root exists and has a record, because this program built or adopted the root. A
    /// directory that only has the right name may be an incomplete root of another agent, even if
    /// there is a file `.ok` for this directory.
    pub(super) fn is_published(&self, id: Digest) -> Result<bool> {
        let name = name_of(id);
        Ok(self.roots.contains(&name)? && is_directory(&self.unpacked, &name)?)
    }

    /// Builds and syncs `tree` under a temporary name, and returns this name.
    fn build(&self, tree: &Tree) -> Result<(CString, Built)> {
        let name = self.unpacked.make_temp(UNFINISHED, 0o700)?;
        let done = build_in(tree, &self.objects, self.placement.clone(), &self.unpacked, &name);
        match done {
            Ok(built) => Ok((name, built)),
            Err(err) => {
                // The method returns the error of the build. If the removal fails, the next start
                // of the agent removes the directory.
                let _ = self.unpacked.remove_tree(&name);
                Err(err)
            }
        }
    }

    /// Renames the finished root to its id. If a directory already has this name, the two
    /// directories exchange names. The method then returns the new name of the old directory. After
    /// an error, the method tries to give the finished root its name `staging` again.
    fn publish(&self, id: Digest, staging: &CStr) -> Result<Option<CString>> {
        let name = name_of(id);
        if !self.unpacked.contains(&name)? {
            return self.unpacked.rename(staging, &self.unpacked, &name).map(|()| None);
        }
        // A mount in the directory would move together with the directory, away from the path that
        // the mount's users know.
        let mounts = Mounts::read();
        mounts.check(&self.unpacked, &name, "replace").map_err(Error::of_moving_root)?;
        let aside = self.free_for_replaced(id)?;
        // The existing root must never have a name that the next start of the agent removes. So the
        // new root first gets the name of a replaced root, and the two roots then exchange names.
        self.unpacked.rename(staging, &self.unpacked, &aside)?;
        let exchanged = match self.unpacked.exchange(&aside, &name).map_err(Error::of_moving_root) {
            Ok(false) => self.change_places(&aside, &name),
            other => other.map(drop),
        };
        match exchanged {
            Ok(()) => Ok(Some(aside)),
            Err(err) => {
                self.unpacked.rename(&aside, &self.unpacked, staging)?;
                Err(err)
            }
        }
    }

    /// Exchanges two names with three renames, for filesystems that cannot exchange names in one
    /// step.
    fn change_places(&self, new: &CStr, name: &CStr) -> Result<()> {
        let before = self.unpacked.move_to_temp(name, &self.unpacked, REPLACED)?;
        if let Err(err) = self.unpacked.rename(new, &self.unpacked, name) {
            self.unpacked.rename(&before, &self.unpacked, name)?;
            return Err(err);
        }
        self.unpacked.rename(&before, &self.unpacked, new)
    }

    /// A name for the root that the root `id` replaces. The first name is for the root that was in
    /// use. Later names are for attempts whose script failed. Of these later roots, only the last
    /// root is kept, because each script had the chance to stop the services in the earlier roots.
    fn free_for_replaced(&self, id: Digest) -> Result<CString> {
        let first = replaced_name(id, 0);
        if !self.unpacked.contains(&first)? {
            return Ok(first);
        }
        let mounts = Mounts::read();
        for n in 1.. {
            let name = replaced_name(id, n);
            if !self.unpacked.contains(&name)? {
                return Ok(name);
            }
            if mounts.within(&self.unpacked, &name).is_none()
                && let Ok(gone) = self.unpacked.move_to_temp(&name, &self.unpacked, RETIRED)
            {
                self.remove_retired(&gone);
                return Ok(name);
            }
        }
        Ok(first)
    }

    /// Records that this program built or adopted the root of `configuration`. A crash or a full
    /// disk may leave an unreadable record. Even then, the root is complete, and the next
    /// deployment of the root writes the record again.
    pub(super) fn mark(&self, configuration: &Configuration) -> Result<()> {
        let name = name_of(configuration.id());
        self.roots.remove_file(&name)?;
        let record = self.roots.create_file(&name, 0o600)?;
        disk::fault::write_all(&record, &configuration.to_json())
            .map_err(|err| Error::io("write", self.roots.path_of(&name), err))
    }

    /// Makes the published roots durable. Call this method before you record that a root is
    /// deployed. Until this call, a published root may be missing after a power cut.
    pub fn sync_roots(&self) -> Result<()> {
        self.unpacked.sync_filesystem()
    }

    /// Writes the mark that the Go agent looks for beside a root. This program uses only the mtime
    /// of the mark, and also works without the mark.
    pub(super) fn mark_for_go(&self, id: Digest) -> Result<()> {
        match self.unpacked.create_file(&ok_name(id), 0o640) {
            Err(err) if !err.exists() => Err(err),
            _ => Ok(()),
        }
    }
}

/// Builds and syncs `tree` in the directory `name` of `parent`.
pub(super) fn build_in(
    tree: &Tree,
    objects: &crate::layer::objects::Objects,
    placement: Placement,
    parent: &Dir,
    name: &CStr,
) -> Result<Built> {
    let root = parent.child(name)?;
    let (owner, meter) = (placement.owner, Arc::clone(&placement.meter));
    meter.begin("placed", Unit::Items("entries"), tree.len() as u64);
    let (built, _) = build::build(tree, objects, placement, &root)?;
    finish(&root, tree, owner)?;
    build::adopt_twins(&built, objects, &root)?;
    meter.end();
    Ok(built)
}

/// Gives the directory of the finished root its final metadata, and syncs the root. Before this
/// call, the directory has mode 0700, so other users cannot enter the directory.
fn finish(root: &Dir, tree: &Tree, owner: bool) -> Result<()> {
    describe(root, tree, owner)?;
    root.sync_filesystem()
}

/// Gives the root directory the metadata that its archives state. If the archives state none, the
/// root directory gets the default metadata.
pub(super) fn describe(root: &Dir, tree: &Tree, owner: bool) -> Result<()> {
    let meta = root_meta(tree, owner);
    if tree.is_described() {
        return disk::set_meta(root, &|| root.path().to_owned(), &meta, owner);
    }
    if owner && tree.has_owner() {
        disk::set_owner(root, &|| root.path().to_owned(), &meta)?;
    }
    root.set_mode(meta.mode)
}

/// The metadata of the root directory. An agent that does not run as root always keeps access to
/// its own roots.
pub(super) fn root_meta(tree: &Tree, owner: bool) -> Meta {
    let mut meta = tree.root().meta.clone();
    if !owner {
        meta.mode |= 0o700;
    }
    meta
}

/// Removes the temporary entries that a crash left among the roots, for example incomplete roots
/// and spares. Completes interrupted removals of roots. Returns the files that cannot be
/// removed.
pub(super) fn clean_up(top: &Dir, unpacked: &Dir) -> Result<Vec<Left>> {
    let mut left = complete_removals(top, unpacked)?;
    left.extend(remove_all_but(unpacked, &TEMPORARY, |name| has_record(top, unpacked, name))?);
    forget_ids(top, unpacked)?;
    Ok(left)
}
