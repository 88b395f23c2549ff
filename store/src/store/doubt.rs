//! Which objects are to be looked at before a spare that shares them becomes a root: those
//! that somebody may have touched since they were looked at last, as the watches tell.

use std::collections::{BTreeMap, HashMap, HashSet};

use rustix::fs::FileType;

use super::Store;
use super::publish::ids;
use super::watch::Evidence;
use super::watched::Watched;
use crate::disk::{Dir, name_of};
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::layer::objects::{Look, ObjectName};
use crate::learned::Why;
use crate::meta::Meta;
use crate::root::place::{c_name, open_dir};
use crate::root::tree::{File, Node, Tree};

/// What is to be looked at.
enum Doubt {
    /// These files of roots, and these objects.
    Some(Vec<(ObjectName, u64, Meta)>),
    /// All, since nobody knows.
    All,
}

impl Store {
    /// Sees to it that every file that `tree`, a spare's, shares is what it must be. Returns
    /// the paths of those that must not be shared any more, with the reasons.
    pub(super) fn changed_since(&self, tree: &Tree) -> Result<BTreeMap<EntryPath, Why>> {
        let mut changed = BTreeMap::new();
        if !self.is_shared() {
            return Ok(changed);
        }
        let mut bad: HashMap<ObjectName, Why> = HashMap::new();
        match self.doubt(&mut bad)? {
            Doubt::Some(objects) => {
                for (name, size, meta) in objects {
                    if let Look::Changed(why) = self.look_at_all(&name, size, &meta)? {
                        bad.insert(name, why);
                    }
                }
                if bad.is_empty() {
                    return Ok(changed);
                }
                for (path, name, _) in shared_files(tree, self) {
                    if let Some(why) = bad.get(&name) {
                        changed.insert(path, *why);
                    }
                }
            }
            Doubt::All => {
                for (path, name, file) in shared_files(tree, self) {
                    let why = bad.get(&name).copied();
                    match self.look_at_all(&name, file.size, &file.meta)? {
                        Look::Changed(why) => {
                            changed.insert(path, why);
                        }
                        Look::Missing => {
                            let path = self.objects.path_of(&name);
                            return Err(Error::Corrupt { path, reason: "is missing".to_owned() });
                        }
                        Look::Sound => changed.extend(why.map(|why| (path, why))),
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Looks at an object and at its twins.
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

    /// What is in doubt. Objects that must not be shared any more whatever a look at them
    /// finds go to `bad`.
    fn doubt(&self, bad: &mut HashMap<ObjectName, Why>) -> Result<Doubt> {
        let published = ids(&self.roots)?;
        let mut all = self.watched();
        let Watched { watcher, roots, aside, objects, .. } = &mut *all;
        let (Some(watcher), Some(objects)) = (watcher, objects) else { return Ok(Doubt::All) };
        let mut doubtful = Doubtful::default();
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
            if !doubtful.add(self, &root, tree, evidence, bad) {
                return Ok(Doubt::All);
            }
        }
        for (name, watch) in aside {
            let (Some((place, tree)), Ok(root)) = (watch, self.unpacked.child(name)) else {
                return Ok(Doubt::All);
            };
            if !doubtful.add(self, &root, tree, watcher.seen(*place), bad) {
                return Ok(Doubt::All);
            }
        }
        Ok(Doubt::Some(doubtful.objects))
    }
}

/// Objects that are in doubt.
#[derive(Default)]
struct Doubtful {
    objects: Vec<(ObjectName, u64, Meta)>,
    known: HashSet<u64>,
}

impl Doubtful {
    /// Adds the objects of what happened in a root; whether that is all of them.
    fn add(
        &mut self,
        store: &Store,
        root: &Dir,
        tree: &Tree,
        evidence: &Evidence,
        bad: &mut HashMap<ObjectName, Why>,
    ) -> bool {
        if evidence.lost {
            return false;
        }
        for path in &evidence.names {
            match tree.get(path) {
                Some(Node::File(file)) => {
                    let Some(name) = self.file(store, path, file) else { continue };
                    if evidence.moved.contains(path) {
                        bad.insert(name, Why::Renamed);
                    }
                }
                Some(_) => {}
                // The root itself.
                None if path.is_root() => {}
                // A service's own file has one name.
                None => match has_one_name(root, path) {
                    Some(true) => {}
                    Some(false) | None => return false,
                },
            }
        }
        for dir in &evidence.opened {
            let directory = match tree.get(dir) {
                Some(Node::Directory(directory)) => directory,
                None if dir.is_root() => tree.root(),
                _ => continue,
            };
            for (name, node) in directory.iter() {
                if let Node::File(file) = node {
                    self.file(store, &dir.join(name), file);
                }
            }
        }
        true
    }

    fn file(&mut self, store: &Store, path: &EntryPath, file: &File) -> Option<ObjectName> {
        if !store.placement.may_share(path, file) {
            return None;
        }
        let name = store.objects.name(file.content, &file.meta, 0);
        if self.known.insert(name.hash()) {
            self.objects.push((name, file.size, file.meta.clone()));
        }
        Some(name)
    }
}

/// The files of a tree that share an inode with the cache, with their objects.
fn shared_files<'a>(
    tree: &'a Tree,
    store: &'a Store,
) -> impl Iterator<Item = (EntryPath, ObjectName, &'a File)> {
    let files = tree.walk().filter_map(|(path, node)| match node {
        Node::File(file) => Some((path, &**file)),
        _ => None,
    });
    let shared = files.filter(|(path, file)| store.placement.may_share(path, file));
    shared.map(|(path, file)| {
        let name = store.objects.name(file.content, &file.meta, 0);
        (path, name, file)
    })
}

/// Whether what stands at `path` has no other name; `None` when that cannot be told.
fn has_one_name(root: &Dir, path: &EntryPath) -> Option<bool> {
    let (parent, name) = path.split()?;
    let dir = open_dir(root, &parent).ok()?;
    let stat = dir.as_ref().unwrap_or(root).stat(&c_name(name).ok()?).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Some(!is_file || stat.st_nlink == 1)
}
