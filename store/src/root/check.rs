//! Compares the inodes of a directory, entry by entry, with the tree that the directory should
//! hold. Contents are not read, because a write changes the file's mtime. An entry that cannot be
//! examined counts as different.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::paths::{c_name, open_dir};
use super::tree::{Directory, File, Node, SpecialKind, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::meter::Meter;
use crate::writable::Writable;

/// The maximum number of nested directories that are open at the same time.
const OPEN: usize = 100;

/// How an entry of a directory differs from the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// The entry is missing.
    Missing,
    /// The entry should not exist.
    Extra,
    /// The size, mode, owner, time, attributes or target of the entry differ.
    Altered,
    /// The entry matches, but is not linked to the other names of its file, or is linked to another
    /// file.
    Links,
    /// The entry is of another kind, is a mount point, or cannot be examined.
    Other,
}

impl Drift {
    /// Whether the entry is missing, additional, of another kind, a mount point or impossible to
    /// examine. A service that only writes to existing files does not cause such a difference.
    pub fn is_lack(self) -> bool {
        !matches!(self, Self::Altered | Self::Links)
    }
}

/// The scope of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All entries are compared, but without attributes and without the owners of symlinks.
    /// Additional entries count as differences.
    All,
    /// All entries are compared, with attributes and with the owners of symlinks. Additional
    /// entries and missing devices do not count as differences.
    Kept {
        /// Whether access lists are compared. This is `false` if new files inherit access lists
        /// from the directory that contains the roots.
        lists: bool,
    },
    /// Only regular files are compared. This scope is for a directory that no other process can
    /// enter. In such a directory, only files can change, through hardlinks in other directories.
    Files,
}

/// Calls `each` for every entry of `root` that differs from `tree`. `owner` states whether owners
/// are restored. `meter` counts the entries of `tree`. Fails if the root itself cannot be listed.
pub fn check(
    root: &Dir,
    tree: &Tree,
    owner: bool,
    scope: Scope,
    meter: &Meter,
    mut each: impl FnMut(EntryPath, Drift),
) -> Result<()> {
    let links = Links::default();
    let mut checker = Checker { owner, scope, meter, each: &mut each, deep: Vec::new(), links };
    checker.directory(root, &EntryPath::root(), tree.root())?;
    while let Some((path, directory)) = checker.deep.pop() {
        // The directories above this directory were already checked.
        let looked = open_dir(root, &path).and_then(|dir| {
            let dir = dir.as_ref().unwrap_or(root);
            checker.directory(dir, &path, directory)
        });
        if looked.is_err() {
            (checker.each)(path, Drift::Other);
        }
    }
    Ok(())
}

struct Checker<'a, 't> {
    owner: bool,
    scope: Scope,
    meter: &'a Meter,
    each: &'a mut dyn FnMut(EntryPath, Drift),
    /// The deep directories that the checker has not entered yet, with their paths.
    deep: Vec<(EntryPath, &'t Directory)>,
    links: Links,
}

/// The hardlinks between the files that match the tree.
#[derive(Default)]
struct Links {
    /// The first name of each file that has several names. The key is the file's address in memory.
    first: HashMap<usize, FirstName>,
    /// The address of the file for each inode that has several names. The key is the device and the
    /// inode number.
    files: HashMap<(u64, u64), usize>,
}

struct FirstName {
    path: EntryPath,
    inode: (u64, u64),
    reported: bool,
}

impl Links {
    /// Records the name `path` of `file`. Returns the names that are not linked as in the tree.
    fn add(
        &mut self,
        path: impl Fn() -> EntryPath,
        file: &Arc<File>,
        stat: &Stat,
    ) -> Vec<EntryPath> {
        let (address, inode) = (Arc::as_ptr(file).addr(), (stat.st_dev, stat.st_ino));
        if stat.st_nlink > 1 && *self.files.entry(inode).or_insert(address) != address {
            return vec![path()];
        }
        if !file.is_linked() {
            return Vec::new();
        }
        let new = || FirstName { path: path(), inode, reported: false };
        let first = self.first.entry(address).or_insert_with(new);
        if first.inode == inode {
            return Vec::new();
        }
        // Either of the two names may be the replaced name, so both names are returned.
        let mut names = vec![path()];
        if !std::mem::replace(&mut first.reported, true) {
            names.push(first.path.clone());
        }
        names
    }
}

impl<'t> Checker<'_, 't> {
    fn directory(&mut self, dir: &Dir, path: &EntryPath, directory: &'t Directory) -> Result<()> {
        if self.scope == Scope::All {
            for item in dir.list()? {
                if directory.get(item.name.to_bytes()).is_none() {
                    (self.each)(path.join(item.name.to_bytes()), Drift::Extra);
                }
            }
        }
        for (name, node) in directory.iter() {
            self.entry(dir, path, name, node)?;
        }
        self.meter.add(directory.count() as u64);
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, parent: &EntryPath, name: &[u8], node: &'t Node) -> Result<()> {
        let c_name = c_name(name)?;
        let is_file = matches!(node, Node::File(_));
        if is_file || self.scope != Scope::Files {
            match (self.compare(dir, &c_name, node), node) {
                (Ok(Some(stat)), Node::File(file)) => {
                    for path in self.links.add(|| parent.join(name), file, &stat) {
                        (self.each)(path, Drift::Links);
                    }
                }
                (Ok(_), _) => {}
                (Err(drift), _) => {
                    (self.each)(parent.join(name), drift);
                    if drift.is_lack() {
                        return Ok(());
                    }
                }
            }
        }
        let Node::Directory(below) = node else { return Ok(()) };
        let path = parent.join(name);
        if path.parts().count().is_multiple_of(OPEN) {
            self.deep.push((path, below));
            return Ok(());
        }
        let looked =
            dir.child_within(&c_name).and_then(|child| self.directory(&child, &path, below));
        if looked.is_err() {
            (self.each)(path, Drift::Other);
        }
        Ok(())
    }

    /// Compares an entry. Returns the status of a matching entry, or `None` if the entry was left
    /// out of the root.
    fn compare(&self, dir: &Dir, name: &CStr, node: &Node) -> Result<Option<Stat>, Drift> {
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(err) if err.is_not_found() => {
                // A device may have been left out, because only root can make devices.
                let left_out = is_device(node) && (!self.owner || self.is_kept());
                return if left_out { Ok(None) } else { Err(Drift::Missing) };
            }
            Err(_) => return Err(Drift::Other),
        };
        if FileType::from_raw_mode(stat.st_mode) != kind_of(node) {
            return Err(Drift::Other);
        }
        let meta = meta_of(node);
        let fits = self.fits(dir, name, &stat, node) && self.has_attributes(dir, name, meta);
        if fits { Ok(Some(stat)) } else { Err(Drift::Altered) }
    }

    fn is_kept(&self) -> bool {
        matches!(self.scope, Scope::Kept { .. })
    }

    fn has_attributes(&self, dir: &Dir, name: &CStr, meta: &Meta) -> bool {
        let Scope::Kept { lists } = self.scope else { return true };
        disk::has_attributes(dir, name, meta, self.owner, lists).unwrap_or(false)
    }

    fn fits(&self, dir: &Dir, name: &CStr, stat: &Stat, node: &Node) -> bool {
        match node {
            Node::File(file) => disk::carries(stat, file.size, &file.meta, self.owner),
            // The mtime of a directory is not compared, because it changes with every file that is
            // created in the directory.
            Node::Directory(directory) => disk::may_be_used_like(stat, &directory.meta, self.owner),
            Node::Symlink(link) => {
                let (uid, gid) = (link.meta.uid, link.meta.gid);
                let owned = (stat.st_uid, stat.st_gid) == (uid, gid);
                (owned || !self.owner || !self.is_kept())
                    && dir.read_link(name).is_ok_and(|target| target.to_bytes() == &*link.target)
            }
            Node::Special(special) => disk::has(stat, &special.meta, self.owner),
        }
    }
}

/// The files that a service writes to. A write through one name of a file is visible under all
/// names of the file.
pub struct Written<'a> {
    writable: &'a Writable,
    /// The addresses of the files that have several names, at least one of which is writable.
    linked: HashSet<usize>,
}

impl<'a> Written<'a> {
    /// The files of `tree` with a `writable` name.
    pub fn new(tree: &Tree, writable: &'a Writable) -> Self {
        let mut linked = HashSet::new();
        if !writable.is_empty() {
            for (path, node) in tree.walk() {
                if let Node::File(file) = node
                    && file.is_linked()
                    && writable.has(&path)
                {
                    linked.insert(Arc::as_ptr(file).addr());
                }
            }
        }
        Self { writable, linked }
    }

    /// Whether a service writes to the entry of `tree` at `path`. If `tree` has no entry at `path`,
    /// only the patterns decide.
    pub fn has_at(&self, tree: &Tree, path: &EntryPath) -> bool {
        tree.get(path).map_or_else(|| self.writable.has(path), |node| self.has(path, node))
    }

    /// Whether a service writes to `node` at `path`.
    pub fn has(&self, path: &EntryPath, node: &Node) -> bool {
        let is_linked = || match node {
            Node::File(file) => self.linked.contains(&Arc::as_ptr(file).addr()),
            _ => false,
        };
        self.writable.has(path) || is_linked()
    }
}

fn meta_of(node: &Node) -> &Meta {
    match node {
        Node::File(file) => &file.meta,
        Node::Directory(directory) => &directory.meta,
        Node::Symlink(link) => &link.meta,
        Node::Special(special) => &special.meta,
    }
}

fn kind_of(node: &Node) -> FileType {
    match node {
        Node::File(_) => FileType::RegularFile,
        Node::Directory(_) => FileType::Directory,
        Node::Symlink(_) => FileType::Symlink,
        Node::Special(special) => match special.kind {
            SpecialKind::Fifo => FileType::Fifo,
            SpecialKind::CharDevice(_) => FileType::CharacterDevice,
            SpecialKind::BlockDevice(_) => FileType::BlockDevice,
        },
    }
}

fn is_device(node: &Node) -> bool {
    matches!(node, Node::Special(special) if special.kind != SpecialKind::Fifo)
}
