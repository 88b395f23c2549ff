//! Decides which objects must be checked before a spare that shares the objects becomes a root. An
//! object must be checked if, according to the watches, a process may have changed the object since
//! the last check.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CStr;

use rustix::fs::FileType;

use super::watch::{Evidence, file_at, moved_files};
use super::watched::Watched;
use crate::disk::{Dir, name_of};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Look;
use crate::layer::objects::object_name::ObjectName;
use crate::layer::objects::reason::PrivateReason;
use crate::root::paths::{c_name, find_dir};
use crate::root::placing::Uses;
use crate::root::tree::{Directory, File, Node, Tree};
use crate::store::Store;
use crate::store::names::ids;

/// The objects to check.
enum Doubt {
    /// Only these objects, each with a path of the object in a root.
    Some(Vec<(ObjectName, EntryPath)>),
    /// All objects, because the evidence is incomplete.
    All,
}

impl Store {
    /// Checks the files that `root`, a spare with `tree`, shares with other roots. For each object,
    /// `uses` has the number of files of `root` that use the object. Returns the paths whose files
    /// must not be shared any more, with the reasons.
    pub(in crate::store) fn changed_since(
        &self,
        root: &Dir,
        tree: &Tree,
        uses: &Uses,
    ) -> Result<BTreeMap<EntryPath, PrivateReason>> {
        let mut changed = BTreeMap::new();
        if !self.is_shared() {
            return Ok(changed);
        }
        let mut moved: HashSet<ObjectName> = HashSet::new();
        let doubt = self.doubt(&mut moved)?;
        let mut note = |path: EntryPath, dir: &Dir, name: &ObjectName, file: &File| {
            let found = self.changed_file(dir, &path, file)?;
            let renamed = moved.contains(name).then_some(PrivateReason::Renamed);
            changed.extend(found.or(renamed).map(|why| (path, why)));
            Ok(())
        };
        match doubt {
            Doubt::Some(objects) => {
                let mut elsewhere = HashSet::new();
                for (name, path) in objects {
                    // Usually, the spare has the object at the same path, and no other file of the
                    // spare uses the object.
                    let here = match tree.get(&path) {
                        Some(Node::File(file)) if self.name_of(file) == name => Some(file),
                        _ => None,
                    };
                    match here {
                        Some(file) if uses.of(&name) <= 1 => {
                            let parent = path.split().map(|(parent, _)| parent);
                            let dir = find_dir(root, &parent.unwrap_or_else(EntryPath::root))?;
                            note(path, dir.as_ref().unwrap_or(root), &name, file)?;
                        }
                        _ if uses.of(&name) == 0 => {}
                        _ => {
                            elsewhere.insert(name);
                        }
                    }
                }
                if !elsewhere.is_empty() {
                    self.each_file(root, tree, |path, dir, name, file| {
                        if elsewhere.contains(name) { note(path, dir, name, file) } else { Ok(()) }
                    })?;
                }
            }
            Doubt::All => self.each_file(root, tree, note)?,
        }
        Ok(changed)
    }

    /// Calls `each` for every file of `tree` that is not empty, with the path, the directory in
    /// `root` and the object of the file.
    fn each_file(
        &self,
        root: &Dir,
        tree: &Tree,
        mut each: impl FnMut(EntryPath, &Dir, &ObjectName, &File) -> Result<()>,
    ) -> Result<()> {
        let mut open: Option<(EntryPath, Option<Dir>)> = None;
        for (path, node) in tree.walk() {
            let (Node::File(file), Some((parent, _))) = (node, path.split()) else { continue };
            if file.size == 0 {
                continue;
            }
            if open.as_ref().is_none_or(|(path, _)| *path != parent) {
                let dir = find_dir(root, &parent)?;
                open = Some((parent, dir));
            }
            let dir = open.as_ref().and_then(|(_, dir)| dir.as_ref()).unwrap_or(root);
            each(path, dir, &self.name_of(file), file)?;
        }
        Ok(())
    }

    /// The name of a file's object. If the object has twins (further objects for equal files), this
    /// is the name of the first object.
    pub(in crate::store) fn name_of(&self, file: &File) -> ObjectName {
        self.objects.name(file.content, &file.meta, 0)
    }

    /// The reason why the file at `path`, whose directory is `dir`, must not be shared any more.
    /// `None` if the file may be shared.
    fn changed_file(
        &self,
        dir: &Dir,
        path: &EntryPath,
        file: &File,
    ) -> Result<Option<PrivateReason>> {
        let Some((_, name)) = path.split() else { return Ok(None) };
        let name = c_name(name)?;
        let stat = dir.stat(&name)?;
        if stat.st_nlink == 1 {
            // The file is the spare's own copy.
            return Ok(None);
        }
        if let Some(object) = self.object_of(file, &stat) {
            return match self.objects.look(&object, file.size, &file.meta)? {
                Look::Changed(why) => Ok(Some(why)),
                Look::Sound | Look::Missing => Ok(None),
            };
        }
        // The file was changed, or its object has no seal, or the file is no longer an object. So
        // the object is checked.
        let look = self.look_at_all(&self.name_of(file), file.size, &file.meta)?;
        let stat = dir.stat(&name)?;
        match (look, self.object_of(file, &stat)) {
            (_, Some(_)) => Ok(None),
            (Look::Changed(why), None) => Ok(Some(why)),
            (Look::Sound, None) => Ok(Some(PrivateReason::Metadata)),
            (Look::Missing, None) => {
                let path = self.objects.path_of(&self.name_of(file));
                Err(Error::Corrupt { path, reason: "it is missing".to_owned() })
            }
        }
    }

    /// The paths of the files of `tree` whose objects are among `renewed`. The inodes of these
    /// files are no longer objects.
    pub(in crate::store) fn files_of(
        &self,
        tree: &Tree,
        renewed: &HashSet<ObjectName>,
    ) -> BTreeSet<EntryPath> {
        let files = tree.walk().filter_map(|(path, node)| match node {
            Node::File(file) if file.size > 0 && renewed.contains(&self.name_of(file)) => {
                Some(path)
            }
            _ => None,
        });
        if renewed.is_empty() { BTreeSet::new() } else { files.collect() }
    }

    /// Checks an object and its twins.
    fn look_at_all(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<Look> {
        let mut look = self.objects.look(name, size, meta)?;
        let content = name.content();
        for twin in 1.. {
            let name = self.objects.name(content, meta, twin);
            if !self.objects.seals().has(&name) {
                break;
            }
            if let changed @ Look::Changed(_) = self.objects.look(&name, size, meta)? {
                look = changed;
            }
        }
        Ok(look)
    }

    /// Records the objects that a process may have opened in `root`. `root` is the directory that
    /// holds `tree`, or `None` if the directory was removed. `evidence` has all events of the root.
    pub(in crate::store) fn note_opens(
        &self,
        root: Option<&Dir>,
        tree: &Tree,
        evidence: &Evidence,
    ) {
        let is_known = |path: &EntryPath| {
            // A file with one name is not an object, but a file that a service made.
            tree.get(path).is_some()
                || path.is_root()
                || root.is_some_and(|root| has_one_name(root, path) == Some(true))
        };
        if evidence.lost || !evidence.names.iter().all(is_known) {
            return self.note_all_maybe_open();
        }
        self.note_maybe_open(touched(tree, evidence).map(|(_, file)| self.name_of(file)));
    }

    /// Records that a process may have opened any object.
    pub(in crate::store) fn note_all_maybe_open(&self) {
        self.objects.seals().set_all_maybe_open();
        self.watched().gone.all = true;
    }

    fn note_maybe_open(&self, objects: impl IntoIterator<Item = ObjectName>) {
        let seals = self.objects.seals();
        for name in objects {
            seals.set_maybe_open(&name);
            let twins = (1..).map(|twin| name.twin(twin));
            twins.take_while(|twin| seals.has(twin)).for_each(|twin| seals.set_maybe_open(&twin));
        }
    }

    /// Collects the objects in doubt. An object to which a process may have given another name is
    /// added to `moved`. Such an object must not be shared any more, even if a check finds the
    /// object sound.
    fn doubt(&self, moved: &mut HashSet<ObjectName>) -> Result<Doubt> {
        let doubt = self.seen_since(moved)?;
        match &doubt {
            Doubt::Some(objects) => self.note_maybe_open(objects.iter().map(|(name, _)| *name)),
            Doubt::All => self.objects.seals().set_all_maybe_open(),
        }
        Ok(doubt)
    }

    fn seen_since(&self, moved: &mut HashSet<ObjectName>) -> Result<Doubt> {
        let published = ids(&self.roots)?;
        let mut all = self.watched();
        let Watched { watcher, roots, aside, objects, gone, .. } = &mut *all;
        let (Some(watcher), Some(objects)) = (watcher, objects) else { return Ok(Doubt::All) };
        if gone.all {
            return Ok(Doubt::All);
        }
        let mut doubtful = Doubtful::default();
        for (tree, evidence) in &gone.roots {
            for (path, file) in touched(tree, evidence) {
                doubtful.push(self.name_of(file), &path);
            }
            moved.extend(moved_files(tree, evidence).map(|(_, file)| self.name_of(file)));
        }
        let touched = watcher.seen(*objects);
        if touched.lost {
            return Ok(Doubt::All);
        }
        for path in &touched.names {
            let Some((_, name)) = path.split() else { continue };
            let Some(name) = ObjectName::from_file_name(&c_name(name)?) else { continue };
            if !self.objects.is_intact(&name)? {
                return Ok(Doubt::All);
            }
        }
        for id in published {
            let Some((place, tree)) = roots.get(&id) else { return Ok(Doubt::All) };
            let evidence = watcher.seen(*place);
            if evidence.is_empty() {
                continue;
            }
            let Ok(root) = self.unpacked.child(&name_of(id)) else { return Ok(Doubt::All) };
            if !doubtful.add(self, &root, tree, evidence, moved) {
                return Ok(Doubt::All);
            }
        }
        for (name, watch) in aside {
            let (Some((place, tree)), Ok(root)) = (watch, self.unpacked.child(name)) else {
                return Ok(Doubt::All);
            };
            if !doubtful.add(self, &root, tree, watcher.seen(*place), moved) {
                return Ok(Doubt::All);
            }
        }
        Ok(Doubt::Some(doubtful.objects))
    }
}

/// The objects that are in doubt.
#[derive(Default)]
struct Doubtful {
    objects: Vec<(ObjectName, EntryPath)>,
    known: HashSet<u64>,
}

impl Doubtful {
    /// Records the objects that the events in a root concern. Returns `false` if the events may
    /// also concern other objects.
    fn add(
        &mut self,
        store: &Store,
        root: &Dir,
        tree: &Tree,
        evidence: &Evidence,
        moved: &mut HashSet<ObjectName>,
    ) -> bool {
        if evidence.lost {
            return false;
        }
        for path in &evidence.names {
            match tree.get(path) {
                Some(Node::File(file)) => {
                    let Some(name) = self.file(store, root, path, file) else { continue };
                    if evidence.moved.contains(path) {
                        moved.insert(name);
                    }
                }
                Some(_) => {}
                // The event concerns the root itself.
                None if path.is_root() => {}
                // A file with one name is not an object, but a file that a service made.
                None => match has_one_name(root, path) {
                    Some(true) => {}
                    Some(false) | None => return false,
                },
            }
        }
        for dir in &evidence.opened {
            // If the directory is missing or was replaced, its former files may have other names.
            let there = find_dir(root, dir).ok();
            let there = there.as_ref().map(|dir| dir.as_ref().unwrap_or(root));
            for (path, file) in files_in(tree, dir) {
                let name = path.split().and_then(|(_, name)| c_name(name).ok());
                let is_own = there.zip(name).is_some_and(|(dir, name)| is_alone(dir, &name));
                if file.size > 0 && !is_own {
                    self.push(store.name_of(file), &path);
                }
            }
        }
        true
    }

    fn file(
        &mut self,
        store: &Store,
        root: &Dir,
        path: &EntryPath,
        file: &File,
    ) -> Option<ObjectName> {
        // A file with one name is a copy that belongs only to the root. A missing or renamed file
        // may still have another name elsewhere.
        if file.size == 0 || has_one_name(root, path) == Some(true) {
            return None;
        }
        let name = store.name_of(file);
        self.push(name, path);
        Some(name)
    }

    fn push(&mut self, name: ObjectName, path: &EntryPath) {
        if self.known.insert(name.hash()) {
            self.objects.push((name, path.clone()));
        }
    }
}

/// The files that `tree` has in the directory `dir`.
fn files_in<'a>(tree: &'a Tree, dir: &'a EntryPath) -> impl Iterator<Item = (EntryPath, &'a File)> {
    let directory = match tree.get(dir) {
        Some(Node::Directory(directory)) => Some(&**directory),
        None if dir.is_root() => Some(&**tree.root()),
        _ => None,
    };
    let nodes = directory.into_iter().flat_map(Directory::iter);
    nodes.filter_map(|(name, node)| match node {
        Node::File(file) => Some((dir.join(name), &**file)),
        _ => None,
    })
}

/// The files of `tree` that a process may have changed, according to `evidence`.
fn touched<'a>(
    tree: &'a Tree,
    evidence: &'a Evidence,
) -> impl Iterator<Item = (EntryPath, &'a File)> {
    let named = evidence.names.iter().filter_map(|path| Some((path.clone(), file_at(tree, path)?)));
    let opened = evidence.opened.iter().flat_map(|dir| files_in(tree, dir));
    named.chain(opened).filter(|(_, file)| file.size > 0)
}

/// Whether `name` exists in `dir` and is not a regular file with further names.
fn is_alone(dir: &Dir, name: &CStr) -> bool {
    dir.stat(name).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink == 1
    })
}

/// Whether the file at `path` has no other name or is not a regular file. `None` if the answer
/// cannot be determined.
fn has_one_name(root: &Dir, path: &EntryPath) -> Option<bool> {
    let (parent, name) = path.split()?;
    let dir = find_dir(root, &parent).ok()?;
    let stat = dir.as_ref().unwrap_or(root).stat(&c_name(name).ok()?).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Some(!is_file || stat.st_nlink == 1)
}
