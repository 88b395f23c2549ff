//! Makes and uses the spare root. The spare is a complete, synced copy of the current root in a
//! directory that only the agent can enter. The agent makes the next root from the spare by
//! applying the difference.
//!
//! Only the process that made a spare uses this spare. The next start of the agent removes the
//! spare. So an incomplete spare, or the spare of another process, is never used.

mod doubt;
mod release;
mod watch;
pub(super) mod watched;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::sync::{Arc, PoisonError};

use super::Store;
use super::messages::{listed, log_private_files};
use super::names::{DISCARDED, SPARE};
use super::sweep::leftovers::remove_all;
use crate::config::Configuration;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::meter::Meter;
use crate::root::apply::{apply, replace};
use crate::root::build;
use crate::root::check::{Scope, check};
use crate::root::placing::{Built, LinkMode, Placement, Uses};
use crate::root::tree::{Node, Tree};
use watch::Place;

/// The number of bytes that must stay free beside a spare.
const RESERVE: u64 = 64 << 20;
/// The number of bytes that the estimate adds for each directory and each copied file.
const BLOCK: u64 = 4096;

/// The spare root.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: CString,
    pub(super) tree: Tree,
    uses: Uses,
    /// The watch that reports every change in the spare, and later in the root that the spare
    /// becomes.
    pub(super) watch: Option<Place>,
}

/// A root that was made from the spare and is not synced.
#[derive(Debug)]
pub(super) struct Made {
    pub name: CString,
    pub built: Built,
    pub watch: Option<Place>,
}

/// The result of [`Store::prepare_spare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareOutcome {
    /// The spare was made, or was changed to match the configuration.
    Ready,
    /// The spare already matched the configuration.
    Unchanged,
    /// The filesystem has too little free space for a spare.
    NoRoom {
        /// The number of bytes that must be free: the size of the spare and a reserve.
        bytes: u64,
        /// The number of inodes that must be free: twice as many as the spare needs.
        inodes: u64,
    },
}

impl Store {
    /// Makes the spare of `configuration`, whose layers must be extracted. The next root can then
    /// be made by applying the difference. Making a spare takes as long as building a root. While
    /// there is no spare, roots are built from nothing.
    pub fn prepare_spare(&self, configuration: &Configuration) -> Result<SpareOutcome> {
        self.remove_discarded();
        let tree = self.tree(configuration)?;
        let (mut spare, outcome) = match self.take_untouched_spare() {
            Some(spare) if spare.tree.is(&tree) => (spare, SpareOutcome::Unchanged),
            Some(spare) => (self.freshen_and_change(spare, &tree)?.0, SpareOutcome::Ready),
            None => match self.room_for(&tree)? {
                Some(no_room) => return Ok(no_room),
                None => {
                    self.watch_anew()?;
                    // The objects are renewed before the spare shares them, so that a process with
                    // an old inode open cannot change the spare.
                    self.renew_private(&tree)?;
                    (self.build_spare(&tree, configuration)?, SpareOutcome::Ready)
                }
            },
        };
        spare.tree = tree;
        if outcome == SpareOutcome::Ready {
            let renewed = self.renew_private(&spare.tree)?;
            let stale = self.files_of(&spare.tree, &renewed);
            if let Err(err) = self.place_anew(&mut spare, &stale) {
                let _ = self.discard(&spare.name);
                self.end_watches(spare.watch)?;
                return Err(err);
            }
            self.unpacked.child(&spare.name)?.sync_filesystem()?;
            self.write_records()?;
        }
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(spare);
        Ok(outcome)
    }

    /// Makes `tree` from the spare, if there is a spare and its contents were not modified.
    pub(super) fn use_spare(&self, tree: &Tree) -> Option<Made> {
        let spare = self.take_untouched_spare()?;
        let name = spare.name.clone();
        match self.freshen_and_change(spare, tree) {
            Ok((Spare { name, watch, .. }, built)) => Some(Made { name, built, watch }),
            Err(err) => {
                // `Corrupt` usually means that a shared file was changed through a root. The change
                // is reported later, when the file is placed in the new root.
                match &err {
                    Error::Corrupt { .. } => tracing::debug!("the spare root is not used: {err}"),
                    _ => tracing::warn!(
                        "the spare root is not usable, so a new root is built: {err}"
                    ),
                }
                // If the discard also fails, the next start of the agent removes the directory.
                let _ = self.discard(&name);
                None
            }
        }
    }

    /// Takes the spare, if there is a spare that was not modified.
    fn take_untouched_spare(&self) -> Option<Spare> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let touched = match &spare.watch {
            Some(place) => {
                let evidence = self.take_evidence(*place);
                let mut paths = evidence.names;
                if evidence.lost {
                    paths.insert(EntryPath::root());
                }
                paths
            }
            None => match self.drift(&spare, Scope::All) {
                Ok(drift) => drift,
                Err(err) => {
                    tracing::warn!(event = "spare_damaged", "the spare root cannot be used: {err}");
                    let _ = self.discard(&spare.name);
                    return None;
                }
            },
        };
        if touched.is_empty() {
            return Some(spare);
        }
        let names: Vec<String> = touched.iter().map(|path| format!("./{path}")).collect();
        tracing::warn!(
            event = "spare_damaged",
            files = names.len(),
            "the spare root was modified and is not used: {}",
            listed(&names)
        );
        // If the discard fails, the next start of the agent removes the directory.
        let _ = self.discard(&spare.name);
        let _ = self.end_watches(spare.watch);
        None
    }

    /// Replaces the shared files of the spare that were changed, and then changes the spare to
    /// `tree`. After an error, the spare is discarded.
    fn freshen_and_change(&self, mut spare: Spare, tree: &Tree) -> Result<(Spare, Built)> {
        match self.freshen(&mut spare) {
            Ok(()) => self.change(spare, tree),
            Err(err) => {
                self.discard(&spare.name)?;
                self.end_watches(spare.watch)?;
                Err(err)
            }
        }
    }

    /// Gives the spare its own copy of each shared file that was changed since the last check.
    fn freshen(&self, spare: &mut Spare) -> Result<()> {
        let root = self.unpacked.child(&spare.name)?;
        let changed = self.changed_since(&root, &spare.tree, &spare.uses)?;
        if changed.is_empty() {
            return Ok(());
        }
        for (path, why) in &changed {
            self.placement.learned.learn(path, *why);
        }
        log_private_files(&changed);
        self.place_anew(spare, &changed.into_keys().collect())
    }

    /// Places the files at `paths` in a spare again.
    fn place_anew(&self, spare: &mut Spare, paths: &BTreeSet<EntryPath>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let root = self.unpacked.child(&spare.name)?;
        let placement = self.placement.clone();
        replace(&spare.tree, paths, &self.objects, placement, &root, &mut spare.uses)?;
        if let Some(place) = spare.watch
            && !self.forget_our_own(place, &root, &[])
        {
            spare.watch = None;
            self.end_watches(Some(place))?;
        }
        Ok(())
    }

    /// The paths of a spare that differ from its tree.
    fn drift(&self, spare: &Spare, scope: Scope) -> Result<BTreeSet<EntryPath>> {
        let mut paths = BTreeSet::new();
        let dir = self.unpacked.child(&spare.name)?;
        check(&dir, &spare.tree, self.placement.owner, scope, &Meter::default(), |path, _| {
            paths.insert(path);
        })?;
        Ok(paths)
    }

    /// Changes the spare to `tree`. After an error, the spare is discarded.
    fn change(&self, mut spare: Spare, tree: &Tree) -> Result<(Spare, Built)> {
        let root = self.unpacked.child(&spare.name)?;
        let (objects, placement) = (&self.objects, self.placement.clone());
        match apply(&spare.tree, tree, objects, placement, &root, &mut spare.uses) {
            Ok(built) => {
                spare.tree = tree.clone();
                if let Some(place) = spare.watch
                    && !(self.forget_our_own(place, &root, &built.directories)
                        && self.watch_more(place, root.path(), &built.directories))
                {
                    spare.watch = None;
                    self.end_watches(Some(place))?;
                }
                Ok((spare, built))
            }
            Err(err) => {
                // The method returns the first error. If the discard fails, the next start of the
                // agent removes the spare.
                let _ = self.discard(&spare.name);
                self.end_watches(spare.watch)?;
                Err(err)
            }
        }
    }

    /// Forgets the events that this program's own changes caused in a spare. The method is called
    /// before any other process can enter the spare. Returns whether the spare's watches work.
    fn forget_our_own(&self, place: Place, root: &Dir, made: &[EntryPath]) -> bool {
        let evidence = self.take_evidence(place);
        let again = evidence.opened.iter().filter(|path| !made.contains(path));
        self.wait_for_opens(place, root.path(), again)
    }

    /// Builds the spare from nothing. Damage that is found here may also be in the published root,
    /// because the published root has the same files.
    fn build_spare(&self, tree: &Tree, configuration: &Configuration) -> Result<Spare> {
        self.mending(tree, configuration, || {
            let name = self.unpacked.make_temp(SPARE, 0o700)?;
            let root = self.unpacked.child(&name)?;
            // The spare is made in the background, so the agent's meter does not count this build.
            let placement = Placement { meter: Arc::default(), ..self.placement.clone() };
            match build::build(tree, &self.objects, placement, &root) {
                Ok((built, uses)) => {
                    log_private_files(&built.changed.into_iter().collect());
                    let watch = self.watch(&name, tree);
                    Ok(Spare { name, tree: tree.clone(), uses, watch })
                }
                Err(err) => {
                    let _ = self.discard(&name);
                    Err(err)
                }
            }
        })
    }

    /// Returns [`SpareOutcome::NoRoom`] if the filesystem has too little free space for a spare of
    /// `tree`. `None` if there is enough free space.
    fn room_for(&self, tree: &Tree) -> Result<Option<SpareOutcome>> {
        let (mut bytes, mut inodes) = (RESERVE, 0);
        for (_, node) in tree.walk() {
            let linked = self.placement.mode == LinkMode::Hardlink;
            inodes += u64::from(!(linked && matches!(node, Node::File(_))));
            bytes += match node {
                Node::File(file) if self.placement.mode == LinkMode::Copy => {
                    self.objects.room_of(file.content, &file.meta, file.size) + BLOCK
                }
                Node::Directory(_) => BLOCK,
                _ => 0,
            };
        }
        let (free_bytes, free_inodes) = self.unpacked.free()?;
        // A filesystem that creates inodes on demand reports 0 free inodes.
        let enough = free_bytes >= bytes && (free_inodes == 0 || free_inodes >= 2 * inodes);
        Ok((!enough).then_some(SpareOutcome::NoRoom { bytes, inodes: 2 * inodes }))
    }

    /// Renames a directory that is no longer needed. The directory is removed later, because the
    /// removal takes time.
    pub(super) fn discard(&self, name: &std::ffi::CStr) -> Result<()> {
        self.unpacked.move_to_temp(name, &self.unpacked, DISCARDED).map(drop)
    }

    fn remove_discarded(&self) {
        match remove_all(&self.unpacked, &[DISCARDED]) {
            Ok(left) => self.log_leftovers(left),
            Err(err) => tracing::debug!("a file that is not needed any more stays: {err}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::config::Layer;
    use crate::digest::Digest;
    use crate::limits::Limits;
    use crate::store::Options;

    /// Makes a store with a configuration of one file, `dir/file`, and an unwatched spare.
    fn unwatched(dir: &std::path::Path, link: LinkMode) -> (Store, Configuration, PathBuf) {
        let limits = Limits::STANDARD;
        let options = Options { limits, link, max_blob: 1 << 20, keep_blobs: true };
        let store = Store::open(dir, options).unwrap();
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, "dir/file", &b"text"[..]).unwrap();
        let bytes = archive.into_inner().and_then(GzEncoder::finish).unwrap();
        let digest = Digest::of(&bytes);
        store.blobs().ingest(digest, &*bytes).unwrap();
        store.extract(digest).unwrap();
        let created = "2026-01-01T00:00:00Z".parse().unwrap();
        let (component, version) = ("code".parse().unwrap(), "v1".parse().unwrap());
        let layer = Layer { component, version, digest, created };
        let wanted = Configuration::new("p".parse().unwrap(), vec![layer], created).unwrap();
        store.prepare_spare(&wanted).unwrap();
        let mut spare = store.spare.lock().unwrap().take().unwrap();
        spare.watch = None;
        let path = store.unpacked.path_of(&spare.name);
        *store.spare.lock().unwrap() = Some(spare);
        (store, wanted, path)
    }

    #[test]
    fn modified_unwatched_spare_is_not_used() {
        let damages = [
            (|spare| fs::write(spare.join("dir/file"), "changed").unwrap()) as fn(PathBuf),
            |spare| fs::write(spare.join("dir/extra"), "x").unwrap(),
            |spare| fs::remove_file(spare.join("dir/file")).unwrap(),
            |spare| fs::remove_dir_all(spare).unwrap(),
        ];
        for link in [LinkMode::Hardlink, LinkMode::Copy] {
            for damage in [None].into_iter().chain(damages.map(Some)) {
                let work = tempfile::tempdir().unwrap();
                let (store, wanted, spare) = unwatched(work.path(), link);
                if let Some(damage) = damage {
                    damage(spare);
                }
                let root = store.root(&wanted).unwrap();
                assert_eq!(root.from_spare, damage.is_none(), "{link:?}");
                assert_eq!(fs::read(root.path.join("dir/file")).unwrap(), b"text");
                assert_eq!(fs::read_dir(root.path.join("dir")).unwrap().count(), 1);
            }
        }
    }
}
