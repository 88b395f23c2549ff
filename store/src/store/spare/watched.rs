//! What of an agent's directory is watched: the spare, and where files are hardlinked the
//! published roots and the directories of the objects.

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

/// What is watched, and what is known of it.
#[derive(Debug, Default)]
pub(in crate::store) struct Watched {
    pub(in crate::store) watcher: Option<Watcher>,
    /// Whether it was tried to watch, and cannot be.
    failed: bool,
    /// The published roots that are watched, with what they hold.
    pub(in crate::store) roots: HashMap<Digest, (Place, Tree)>,
    /// Roots that were replaced and may still be in use, with what they hold where they are
    /// all.
    pub(in crate::store) aside: Vec<(CString, Option<(Place, Tree)>)>,
    /// Where the directories of the objects are.
    pub(in crate::store) objects: Option<Place>,
    /// What was touched in roots that are gone by now.
    pub(in crate::store) gone: Gone,
    /// Places of spares that became roots which need no watch.
    ended: Vec<Place>,
}

/// What was touched in roots that are gone: who has a file of them open keeps it.
#[derive(Debug, Default)]
pub(in crate::store) struct Gone {
    /// What each of them held, and what was seen there.
    pub roots: Vec<(Tree, Evidence)>,
    /// Whether it may be any object.
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
                        "roots cannot be watched, so that all their files are looked at before each change, which takes longer ({err}); raise fs.inotify.max_user_instances and max_user_watches"
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

    /// Begins to watch the directory `name` of roots, a spare's or one that is to be
    /// published, which holds `tree`. `None` where that cannot be.
    pub(in crate::store) fn watch(&self, name: &CStr, tree: &Tree) -> Option<Place> {
        let mut all = self.watched();
        let watcher = all.watcher(&self.path)?;
        let watching = watcher.watch_tree(&self.unpacked.path_of(name), tree, self.is_shared());
        match watching {
            Ok(place) => Some(place),
            Err(err) => {
                // Told once: each root would say the same.
                if !std::mem::replace(&mut all.failed, true) {
                    tracing::warn!(
                        event = "not_watched",
                        "not all roots can be watched, so that all their files are looked at before each change, which takes longer ({err}); raise fs.inotify.max_user_watches"
                    );
                }
                None
            }
        }
    }

    /// As [`Store::watch`], where whoever writes to a file of the root writes to an object.
    pub(in crate::store) fn watch_shared(&self, name: &CStr, tree: &Tree) -> Option<Place> {
        self.is_shared().then(|| self.watch(name, tree)).flatten()
    }

    /// Watches directories that were made in a place; whether that could be done.
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

    /// Waits for the next open in directories of a place that told of one.
    pub(in crate::store) fn wait_for_opens<'a>(
        &self,
        place: Place,
        root: &Path,
        dirs: impl Iterator<Item = &'a EntryPath>,
    ) {
        let mut all = self.watched();
        let Some(watcher) = &mut all.watcher else { return };
        for path in dirs {
            // A directory that is gone has no files; what else fails is found out later.
            let _ = watcher.wait_for_open(place, root, path);
        }
    }

    /// What happened in a place since the last call.
    pub(in crate::store) fn take_evidence(&self, place: Place) -> Evidence {
        let mut all = self.watched();
        all.watcher.as_mut().map_or_else(
            || Evidence { lost: true, ..Evidence::default() },
            |watcher| watcher.take(place),
        )
    }

    /// Takes note of a published root.
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

    /// Takes note that what was the root `id` is called `name` from now on.
    pub(in crate::store) fn watch_aside(&self, id: Digest, name: CString) {
        if self.is_shared() {
            let mut all = self.watched();
            let watch = all.roots.remove(&id);
            all.aside.push((name, watch));
        }
    }

    /// No longer counts the root `id`, which is to be removed and is called `name`; returns what
    /// it holds, if it was all, and its place, whose watch is still to be ended.
    pub(in crate::store) fn retire_watch(&self, id: Digest, name: &CStr) -> Option<(Place, Tree)> {
        let Some((place, tree)) = self.watched().roots.remove(&id) else {
            self.note_all_maybe_open();
            return None;
        };
        // Who has a file of it open keeps it.
        self.keep_evidence(place, &tree, name);
        if let Some(watcher) = &mut self.watched().watcher {
            watcher.end_changes(place);
        }
        Some((place, tree))
    }

    /// Ends watching a place that holds `tree`, from which we removed files, and takes note of
    /// what others opened meanwhile.
    pub(in crate::store) fn end_retired(&self, place: Place, tree: &Tree, name: &CStr) {
        self.keep_evidence(place, tree, name);
        if let Some(watcher) = &mut self.watched().watcher {
            watcher.end(place);
        }
    }

    /// Takes what was seen in a place, a root that is called `name` and is to be removed, and
    /// keeps it until all objects are looked at.
    fn keep_evidence(&self, place: Place, tree: &Tree, name: &CStr) {
        let evidence = self.take_evidence(place);
        if !evidence.is_empty() {
            self.note_opens(self.unpacked.child(name).ok().as_ref(), tree, &evidence);
            self.watched().gone.roots.push((tree.clone(), evidence));
        }
    }

    /// Ends watching a root that is aside and to be removed.
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

    /// Takes note of what an earlier agent left aside: nobody watches it.
    pub(in crate::store) fn watch_asides(&self) -> Result<()> {
        if self.is_shared() {
            let names = self.unpacked.list()?.into_iter().map(|item| item.name);
            let aside = names.filter(|name| name.to_bytes().starts_with(REPLACED.as_bytes()));
            self.watched().aside = aside.map(|name| (name, None)).collect();
        }
        Ok(())
    }

    /// Ends watches that are of no use any more: those of roots that are gone, and of
    /// `place`.
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
        // Nobody can tell any more what was opened there.
        all.gone.all |= !vanished.is_empty();
        if let Some(watcher) = &mut all.watcher {
            for place in ended.into_iter().chain(vanished) {
                watcher.end(place);
            }
        }
        Ok(())
    }

    /// Watches all that is shared and is not watched yet, and forgets what happened so far, but
    /// for files that were renamed or linked: they are private from now on. After this every
    /// object is to be looked at before it is linked.
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
                // Of one that lost its record, or a layer, nobody knows what to watch.
                let known = self.marked(id).and_then(|configuration| self.tree(&configuration));
                let Ok(tree) = known else { continue };
                let place = self.watch(&name_of(id), &tree);
                self.publish_watch(id, place, &tree);
                continue;
            };
            let evidence = self.take_evidence(place);
            self.note_opens(self.unpacked.child(&name_of(id)).ok().as_ref(), &tree, &evidence);
            if !self.wait_again(place, &name_of(id), &evidence) {
                // Not watched: all is looked at each time.
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

    /// Waits for the next open in the directories of a root that told of one; whether that
    /// can be done.
    fn wait_again(&self, place: Place, name: &CStr, evidence: &Evidence) -> bool {
        let root = self.unpacked.path_of(name);
        let mut all = self.watched();
        let Some(watcher) = &mut all.watcher else { return false };
        evidence.opened.iter().all(|path| match watcher.wait_for_open(place, &root, path) {
            // A directory that somebody removed has no files.
            Err(err) => err.is_not_found(),
            Ok(()) => true,
        })
    }

    /// Watches the directories that objects are in, as many as there are by now.
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

    /// The files of `tree` that have another name by now, as far as what happened in their
    /// root tells.
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

/// The inode of a file with several names at `path`.
fn linked_inode(root: &Dir, path: &EntryPath) -> Option<u64> {
    let (parent, name) = path.split()?;
    let dir = find_dir(root, &parent).ok()?;
    let stat = dir.as_ref().unwrap_or(root).stat(&c_name(name).ok()?).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    (is_file && stat.st_nlink > 1).then_some(stat.st_ino)
}

/// The files of `tree` in the directory `parent` whose inode is `inode`.
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
