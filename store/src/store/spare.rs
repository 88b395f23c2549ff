//! The spare root: a complete, synced copy of the current root in a directory that only
//! the agent can enter. The next root is made of it by the difference alone.
//!
//! A spare lives as long as the program: what one leaves is removed at the next start, so
//! that none that was built half way, or by another program, is ever used.

use std::ffi::CString;
use std::sync::PoisonError;

use super::Store;
use super::watch::{Watch, not_watched};
use crate::config::Configuration;
use crate::disk::{Dir, temp_name};
use crate::error::{Error, Result};
use crate::root::apply::apply;
use crate::root::build::{self, Built};
use crate::root::check::{Scope, check};
use crate::root::place::Uses;
use crate::root::tree::{Node, Tree};
use crate::store::LinkMode;

/// Prefix of spares.
pub(super) const SPARE: &str = ".spare";
/// Bytes that stay free beside a spare.
const RESERVE: u64 = 64 << 20;
/// Bytes of a directory or a small file, for the estimate.
const BLOCK: u64 = 4096;

/// A directory that holds a tree.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: CString,
    pub(super) tree: Tree,
    uses: Uses,
    /// Sees what is done to the root that it becomes.
    watch: Option<Watch>,
    /// What [`Store::untouched`] said when every file was what it must be.
    checked: Option<u64>,
}

/// A root that was made of the spare, not synced.
#[derive(Debug)]
pub(super) struct Made {
    pub name: CString,
    pub built: Built,
    pub watch: Option<Watch>,
}

/// What became of a wish for a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareOutcome {
    /// It was made, or changed to what the configuration wants.
    Ready,
    /// It was there.
    Unchanged,
    /// There is too little room for one: so many bytes and inodes are wanted.
    NoRoom {
        /// Bytes.
        bytes: u64,
        /// Inodes.
        inodes: u64,
    },
}

impl Store {
    /// Makes the spare of `configuration`, whose layers are extracted, so that the root of
    /// the one that comes after it is made by the difference. It takes as long as building
    /// a root does; meanwhile and without a spare, roots are built from nothing.
    pub fn prepare_spare(&self, configuration: &Configuration) -> Result<SpareOutcome> {
        self.remove_discarded()?;
        let watching = self.watch_all().inspect_err(not_watched);
        let tree = self.tree(configuration)?;
        let (mut spare, outcome) = match self.take_spare() {
            Some(spare) if spare.tree.is(&tree) => (spare, SpareOutcome::Unchanged),
            Some(spare) => (self.change(spare, &tree)?.0, SpareOutcome::Ready),
            None => match self.room_for(&tree)? {
                Some(no_room) => return Ok(no_room),
                None => {
                    // What was touched until now shows when it is placed.
                    let untouched = watching.and_then(|()| self.untouched()).unwrap_or(None);
                    // Nobody waits: each object is looked at, once more.
                    self.objects.trust(None);
                    self.objects.trust(untouched);
                    let mut spare = self.build_spare(&tree, configuration)?;
                    spare.checked = untouched;
                    (spare, SpareOutcome::Ready)
                }
            },
        };
        if outcome == SpareOutcome::Ready {
            self.unpacked.child(&spare.name)?.sync_filesystem()?;
        }
        spare.tree = tree;
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(spare);
        Ok(outcome)
    }

    /// Makes `tree` of the spare, if there is one and nobody has changed what it holds.
    pub(super) fn use_spare(&self, tree: &Tree) -> Option<Made> {
        let spare = self.take_spare()?;
        let name = spare.name.clone();
        let changed = self.is_sound(&spare).and_then(|()| self.change(spare, tree));
        match changed {
            Ok((Spare { name, watch, .. }, built)) => Some(Made { name, built, watch }),
            Err(err) => {
                // What was changed through a root is told when its file is placed.
                match &err {
                    Error::Corrupt { .. } => tracing::debug!("the spare root is not used: {err}"),
                    _ => tracing::warn!("the spare root cannot be used, a new one is built: {err}"),
                }
                // If even this fails, the next start removes it.
                let _ = self.discard(&name);
                None
            }
        }
    }

    /// Where files are hardlinked, whoever writes to one in a root writes to the spare's:
    /// an error with their names then.
    fn is_sound(&self, spare: &Spare) -> Result<()> {
        if self.placement.mode != LinkMode::Hardlink {
            return Ok(());
        }
        if spare.checked.is_some() && spare.checked == self.untouched()? {
            return Ok(());
        }
        let mut damaged = Vec::new();
        let dir = self.unpacked.child(&spare.name)?;
        check(&dir, &spare.tree, self.placement.owner, Scope::Files, |path, _| {
            if !self.placement.writable.has(&path) {
                damaged.push(path.to_string());
            }
        })?;
        if damaged.is_empty() {
            return Ok(());
        }
        let reason = format!("files were changed through a root: {}", damaged.join(", "));
        Err(Error::Corrupt { path: dir.path().to_owned(), reason })
    }

    /// Changes the spare to `tree`; after an error it is discarded.
    fn change(&self, mut spare: Spare, tree: &Tree) -> Result<(Spare, Built)> {
        let root = self.unpacked.child(&spare.name)?;
        let (objects, placement) = (&self.objects, self.placement.clone());
        match apply(&spare.tree, tree, objects, placement, &root, &mut spare.uses) {
            Ok(built) => {
                spare.tree = tree.clone();
                let mut watch = spare.watch.take();
                let all = built.directories.iter().try_for_each(|path| match &mut watch {
                    Some(watch) => watch.add(root.path(), path),
                    None => Ok(()),
                });
                spare.watch = watch.filter(|_| all.is_ok());
                Ok((spare, built))
            }
            Err(err) => {
                self.discard(&spare.name)?;
                Err(err)
            }
        }
    }

    /// Builds the spare from nothing. Damage that shows may be in the published root, too:
    /// it holds the same files.
    fn build_spare(&self, tree: &Tree, configuration: &Configuration) -> Result<Spare> {
        self.mending(tree, configuration, || {
            let name = temp_name(SPARE);
            self.unpacked.make_dir(&name, 0o700)?;
            let root = self.unpacked.child(&name)?;
            match build::build(tree, &self.objects, self.placement.clone(), &root) {
                Ok((_, uses)) => {
                    let watch = self.watch(&name, tree);
                    Ok(Spare { name, tree: tree.clone(), uses, watch, checked: None })
                }
                Err(err) => {
                    self.discard(&name)?;
                    Err(err)
                }
            }
        })
    }

    fn take_spare(&self) -> Option<Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `None` where there is room for a spare.
    fn room_for(&self, tree: &Tree) -> Result<Option<SpareOutcome>> {
        let (mut bytes, mut inodes) = (RESERVE, 0);
        for (_, node) in tree.walk() {
            let linked = self.placement.mode == LinkMode::Hardlink;
            inodes += u64::from(!(linked && matches!(node, Node::File(_))));
            bytes += match node {
                Node::File(file) if self.placement.mode == LinkMode::Copy => file.size + BLOCK,
                Node::Directory(_) => BLOCK,
                _ => 0,
            };
        }
        let (free_bytes, free_inodes) = self.unpacked.free()?;
        // Filesystems that make inodes as they need them say that they have none.
        let enough = free_bytes >= bytes && (free_inodes == 0 || free_inodes >= 2 * inodes);
        Ok((!enough).then_some(SpareOutcome::NoRoom { bytes, inodes: 2 * inodes }))
    }

    /// Puts a directory aside that is no use any more; removing it takes time.
    pub(super) fn discard(&self, name: &std::ffi::CStr) -> Result<()> {
        self.unpacked.rename(name, &self.unpacked, &temp_name(DISCARDED))
    }

    fn remove_discarded(&self) -> Result<()> {
        remove_all(&self.unpacked, DISCARDED)
    }
}

/// Prefix of directories that are no use any more.
pub(super) const DISCARDED: &str = ".gone";

/// Removes everything in `dir` whose name begins so.
fn remove_all(dir: &Dir, prefix: &str) -> Result<()> {
    for item in dir.list()? {
        if item.name.to_bytes().starts_with(prefix.as_bytes()) {
            dir.remove_tree(&item.name)?;
        }
    }
    Ok(())
}
