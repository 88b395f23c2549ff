//! Decides which directories are watched. The spare is watched in every link mode. With hardlinks,
//! the published roots and the directories of objects are also watched.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::watch::{Evidence, Place, Watcher, moved_files};
use crate::digest::Digest;
use crate::disk::{Dir, name_of};
use crate::error::Result;
use crate::layer::entry::EntryPath;
use crate::layer::objects::reason::PrivateReason;
use crate::root::paths::{c_name, find_dir};
use crate::root::placing::LinkMode;
use crate::root::tree::{Node, Tree};
use crate::store::Store;
use crate::store::names::{REPLACED, ids};

/// The watches, and the evidence so far.
#[derive(Debug, Default)]
pub(in crate::store) struct Watched {
    pub(in crate::store) watcher: Option<Watcher>,
    /// Whether a watch has failed.
    failed: bool,
    /// The watched published roots, with their trees.
    pub(in crate::store) roots: HashMap<Digest, (Place, Tree)>,
    /// Replaced roots that may still be in use. `None` for a root that is not watched.
    pub(in crate::store) aside: Vec<(CString, Option<(Place, Tree)>)>,
    /// The place of the directories of objects.
    pub(in crate::store) objects: Option<Place>,
    /// The evidence from removed roots.
    pub(in crate::store) gone: Gone,
    /// Places whose watches must be ended, for example spares that became roots.
    ended: Vec<Place>,
}

/// The evidence from removed roots. The store keeps this evidence, because a process may still have
/// a file of such a root open.
#[derive(Debug, Default)]
pub(in crate::store) struct Gone {
    /// The tree of each removed root, and the evidence from this root.
    pub roots: Vec<(Tree, Evidence)>,
    /// Whether the evidence is incomplete, so that every object may be affected.
    pub all: bool,
}

impl Watched {
    fn watcher(&mut self, dir: &Path) -> Option<&mut Watcher> {
        if self.watcher.is_none() && !self.failed {
            match Watcher::new(dir) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(err) => {
                    self.failed = true;
                    tracing::warn!(
                        event = "not_watched",
                        "roots cannot be watched, so the agent checks every shared file before \
                         each change, which takes longer ({err}); raise \
                         fs.inotify.max_user_instances and fs.inotify.max_user_watches"
                    );
                }
            }
        }
        self.watcher.as_mut()
    }
}

impl Store {
    pub(in crate::store) fn is_shared(&self) -> bool {
        self.placement.mode == LinkMode::Hardlink
    }

    pub(in crate::store) fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the directory `name` in `unpacked/`, which holds `tree`. The directory is a spare or
    /// a root. Returns `None` if the watch fails.
    pub(in crate::store) fn watch(&self, name: &CStr, tree: &Tree) -> Option<Place> {
        let mut all = self.watched();
        let watcher = all.watcher(&self.path)?;
        let watching = watcher.watch_tree(&self.unpacked.path_of(name), tree, self.is_shared());
        match watching {
            Ok(place) => Some(place),
            Err(err) => {
                // Only the first failure is logged, because the message would be the same for each
                // root.
                if !std::mem::replace(&mut all.failed, true) {
                    tracing::warn!(
                        event = "not_watched",
                        "not all roots can be watched, so the agent checks every shared file \
                         before each change, which takes longer ({err}); raise \
                         fs.inotify.max_user_watches"
                    );
                }
                None
            }
        }
    }

    /// Like [`Store::watch`], but watches the root only if a write to one of its files reaches an
    /// object.
    pub(in crate::store) fn watch_shared(&self, name: &CStr, tree: &Tree) -> Option<Place> {
        self.is_shared().then(|| self.watch(name, tree)).flatten()
    }

    /// Watches the new directories `dirs` in a place. Returns whether all these watches work.
    pub(in crate::store) fn watch_more(
        &self,
        place: Place,
        root: &Path,
        dirs: &[EntryPath],
    ) -> bool {
        let shared = self.is_shared();
        let mut all = self.watched();
        let Some(watcher) = &mut all.watcher else { return false };
        dirs.iter().all(|path| watcher.add(place, root, path, shared).is_ok())
    }

    /// Makes the watcher report the next open in each directory of `dirs`. The watcher has already
    /// reported an open in each of these directories. Returns whether all these watches work.
    pub(in crate::store) fn wait_for_opens<'a>(
        &self,
        place: Place,
        root: &Path,
        mut dirs: impl Iterator<Item = &'a EntryPath>,
    ) -> bool {
        let mut all = self.watched();
        let Some(watcher) = &mut all.watcher else { return false };
        dirs.all(|path| is_watched(watcher.wait_for_open(place, root, path)))
    }

    /// Takes the evidence of a place since the last call.
    pub(in crate::store) fn take_evidence(&self, place: Place) -> Evidence {
        let mut all = self.watched();
        all.watcher.as_mut().map_or_else(
            || Evidence { lost: true, ..Evidence::default() },
            |watcher| watcher.take(place),
        )
    }

    /// Records the watch of the published root `id`. If roots do not share files, the method ends
    /// the watch instead.
    pub(in crate::store) fn publish_watch(&self, id: Digest, place: Option<Place>, tree: &Tree) {
        let Some(place) = place else { return };
        let shared = self.is_shared();
        let mut all = self.watched();
        let before = if shared { all.roots.insert(id, (place, tree.clone())) } else { None };
        if let Some((place, _)) = before {
            all.gone.all = true;
            all.ended.push(place);
        }
        if !shared {
            all.ended.push(place);
        }
    }

    /// Records that the root `id` is called `name` from now on.
    pub(in crate::store) fn watch_aside(&self, id: Digest, name: CString) {
        if self.is_shared() {
            let mut all = self.watched();
            let watch = all.roots.remove(&id);
            all.aside.push((name, watch));
        }
    }

    /// Takes the watch of the root `id`, which is now called `name` and will be removed. Returns
    /// the place and the tree of the root, if the root was watched. The caller must end the watch
    /// of the place.
    pub(in crate::store) fn retire_watch(&self, id: Digest, name: &CStr) -> Option<(Place, Tree)> {
        let Some((place, tree)) = self.watched().roots.remove(&id) else {
            self.note_all_maybe_open();
            return None;
        };
        // A process may still have a file of the root open, so the evidence is kept.
        self.keep_evidence(place, &tree, name);
        if let Some(watcher) = &mut self.watched().watcher {
            watcher.end_changes(place);
        }
        Some((place, tree))
    }

    /// Ends the watches of a place that held `tree` and from which this program removed files. The
    /// method keeps the evidence of opens by other processes.
    pub(in crate::store) fn end_retired(&self, place: Place, tree: &Tree, name: &CStr) {
        self.keep_evidence(place, tree, name);
        if let Some(watcher) = &mut self.watched().watcher {
            watcher.end(place);
        }
    }

    /// Takes the evidence of a root that is called `name` and will be removed. The method keeps the
    /// evidence for the next checks of objects.
    fn keep_evidence(&self, place: Place, tree: &Tree, name: &CStr) {
        let evidence = self.take_evidence(place);
        if !evidence.is_empty() {
            self.note_opens(self.unpacked.child(name).ok().as_ref(), tree, &evidence);
            self.watched().gone.roots.push((tree.clone(), evidence));
        }
    }

    /// Ends the watches of a replaced root that will be removed.
    pub(in crate::store) fn end_watch_aside(&self, name: &CStr) {
        let mut all = self.watched();
        let known = all.aside.iter_mut().find(|(other, _)| **other == *name);
        let Some((_, watch)) = known else { return };
        let watch = watch.take();
        drop(all);
        match watch {
            Some((place, tree)) => {
                self.keep_evidence(place, &tree, name);
                if let Some(watcher) = &mut self.watched().watcher {
                    watcher.end(place);
                }
            }
            None => self.note_all_maybe_open(),
        }
    }

    /// Records the replaced roots that an earlier agent left. These roots are not watched.
    pub(in crate::store) fn watch_asides(&self) -> Result<()> {
        if self.is_shared() {
            let names = self.unpacked.list()?.into_iter().map(|item| item.name);
            let aside = names.filter(|name| name.to_bytes().starts_with(REPLACED.as_bytes()));
            self.watched().aside = aside.map(|name| (name, None)).collect();
        }
        Ok(())
    }

    /// Ends the watches of removed roots and of `place`.
    pub(in crate::store) fn end_watches(&self, place: Option<Place>) -> Result<()> {
        let published = ids(&self.roots)?;
        let mut all = self.watched();
        let mut ended = std::mem::take(&mut all.ended);
        ended.extend(place);
        let mut vanished = Vec::new();
        all.roots.retain(|id, (place, _)| {
            let stays = published.contains(id);
            if !stays {
                vanished.push(*place);
            }
            stays
        });
        all.aside.retain(|(name, watch)| {
            let stays = self.unpacked.contains(name).unwrap_or(true);
            if !stays {
                vanished.extend(watch.as_ref().map(|(place, _)| *place));
            }
            stays
        });
        // The files that were opened in vanished roots are not known.
        all.gone.all |= !vanished.is_empty();
        if let Some(watcher) = &mut all.watcher {
            for place in ended.into_iter().chain(vanished) {
                watcher.end(place);
            }
        }
        Ok(())
    }

    /// Watches each shared directory that is not watched yet. Uses up the evidence so far: files of
    /// published and removed roots that were renamed or linked become private. After this call,
    /// every object must be checked before the next hardlink to the object is made.
    pub(in crate::store) fn watch_anew(&self) -> Result<()> {
        self.end_watches(None)?;
        if !self.is_shared() {
            return Ok(());
        }
        let mut renamed = BTreeSet::new();
        if self.watched().gone.all {
            self.note_all_maybe_open();
        }
        self.watch_objects()?;
        for id in ids(&self.roots)? {
            let known = self.watched().roots.get(&id).cloned();
            let Some((place, tree)) = known else {
                self.note_all_maybe_open();
                // The tree of a root is not known if the root has no record or a layer is missing.
                let known = self.marked(id).and_then(|configuration| self.tree(&configuration));
                let Ok(tree) = known else { continue };
                let place = self.watch(&name_of(id), &tree);
                self.publish_watch(id, place, &tree);
                continue;
            };
            let evidence = self.take_evidence(place);
            self.note_opens(self.unpacked.child(&name_of(id)).ok().as_ref(), &tree, &evidence);
            if !self.wait_again(place, &name_of(id), &evidence) {
                // Without watches of this root, all objects are checked each time.
                self.note_all_maybe_open();
                let mut all = self.watched();
                all.roots.remove(&id);
                all.ended.push(place);
            }
            renamed.extend(self.renamed_files(id, &evidence, &tree));
        }
        let mut aside = std::mem::take(&mut self.watched().aside);
        for (name, watch) in &mut aside {
            let Some((place, tree)) = watch else {
                self.note_all_maybe_open();
                continue;
            };
            let evidence = self.take_evidence(*place);
            self.note_opens(self.unpacked.child(name).ok().as_ref(), tree, &evidence);
            if !self.wait_again(*place, name, &evidence) {
                self.note_all_maybe_open();
                self.watched().ended.push(*place);
                *watch = None;
            }
        }
        let mut all = self.watched();
        all.aside = aside;
        for (tree, evidence) in std::mem::take(&mut all.gone).roots {
            renamed.extend(moved_files(&tree, &evidence).map(|(path, _)| path.clone()));
        }
        for path in renamed {
            self.placement.learned.learn(&path, PrivateReason::Renamed);
        }
        Ok(())
    }

    /// Renews the watches of a root after opens in its directories, because each watch reports only
    /// one open. Returns whether the watches work.
    fn wait_again(&self, place: Place, name: &CStr, evidence: &Evidence) -> bool {
        let root = self.unpacked.path_of(name);
        let mut all = self.watched();
        let Some(watcher) = &mut all.watcher else { return false };
        evidence.opened.iter().all(|path| is_watched(watcher.wait_for_open(place, &root, path)))
    }

    /// Watches the existing directories of objects.
    fn watch_objects(&self) -> Result<()> {
        let fans: Vec<_> = self.objects.fans()?.collect();
        let root = self.objects.path();
        let mut all = self.watched();
        let Watched { objects, .. } = &mut *all;
        let place = *objects;
        let Some(watcher) = all.watcher(&self.path) else { return Ok(()) };
        let place = place.unwrap_or_else(|| watcher.place());
        watcher.take(place);
        let is_watched = fans.iter().all(|fan| {
            let fan = EntryPath::root().join(fan.to_bytes());
            watcher.add_busy(place, root, &fan).is_ok()
        });
        all.objects = Some(place).filter(|_| is_watched);
        Ok(())
    }

    /// The paths of the files of `tree` that got another name, according to the evidence of the
    /// root.
    fn renamed_files(&self, id: Digest, evidence: &Evidence, tree: &Tree) -> Vec<EntryPath> {
        let is_file = |path: &&EntryPath| matches!(tree.get(path), Some(Node::File(_)));
        let mut found: Vec<EntryPath> = evidence.moved.iter().filter(is_file).cloned().collect();
        let Ok(root) = self.unpacked.child(&name_of(id)) else { return found };
        for path in evidence.names.iter().filter(|path| tree.get(path).is_none()) {
            let Some(inode) = linked_inode(&root, path) else { continue };
            let Some((parent, _)) = path.split() else { continue };
            found.extend(names_of(&root, tree, &parent, inode));
        }
        found
    }
}

/// Whether a watch works. A removed directory needs no watch, because it has no files.
fn is_watched(watch: Result<()>) -> bool {
    watch.map_or_else(|err| err.is_not_found(), |()| true)
}

/// The inode number of the file at `path`, if the file has several names.
fn linked_inode(root: &Dir, path: &EntryPath) -> Option<u64> {
    let (parent, name) = path.split()?;
    let dir = find_dir(root, &parent).ok()?;
    let stat = dir.as_ref().unwrap_or(root).stat(&c_name(name).ok()?).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    (is_file && stat.st_nlink > 1).then_some(stat.st_ino)
}

/// The paths of the files of `tree` in the directory `parent` whose inode number is `inode`.
fn names_of(root: &Dir, tree: &Tree, parent: &EntryPath, inode: u64) -> Vec<EntryPath> {
    let directory = match tree.get(parent) {
        Some(Node::Directory(directory)) => directory,
        None if parent.is_root() => tree.root(),
        _ => return Vec::new(),
    };
    let Ok(dir) = find_dir(root, parent) else { return Vec::new() };
    let dir = dir.as_ref().unwrap_or(root);
    let files = directory.iter().filter(|(_, node)| matches!(node, Node::File(_)));
    let same = files.filter(|(name, _)| {
        let stat = c_name(name).and_then(|name| dir.stat(&name));
        stat.is_ok_and(|stat| stat.st_ino == inode)
    });
    same.map(|(name, _)| parent.join(name)).collect()
}
