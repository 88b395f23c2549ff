//! Compares the inodes of a directory, entry by entry, with the tree that the directory should
//! hold. Contents are not read: a write to a file moves its time. An entry that cannot be examined
//! counts as different.

use std::ffi::CStr;

use rustix::fs::{FileType, Stat};

use super::paths::{c_name, open_dir};
use super::tree::{Directory, Node, SpecialKind, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::meter::Meter;

/// Most directories that are open at a time, one in the other.
const OPEN: usize = 100;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// The entry is missing.
    Missing,
    /// The entry should not exist.
    Extra,
    /// The size, mode, owner, time, attributes or target differ.
    Altered,
    /// The entry is of another kind, something is mounted on it, or it cannot be examined.
    Other,
}

/// The scope of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything but attributes.
    All,
    /// Everything in the tree, attributes included. Additional entries do not count.
    Kept {
        /// Whether access lists count. Access lists do not count where new files inherit them.
        lists: bool,
    },
    /// Regular files only. In a directory that nobody else can enter, only files that have names
    /// elsewhere can change.
    Files,
}

/// Calls `each` for every entry of `root` that differs from `tree`; `owner` says whether owners are
/// restored. `meter` counts the compared entries of `tree`. It is an error if the root itself
/// cannot be listed.
pub fn check(
    root: &Dir,
    tree: &Tree,
    owner: bool,
    scope: Scope,
    meter: &Meter,
    mut each: impl FnMut(EntryPath, Drift),
) -> Result<()> {
    let mut checker = Checker { owner, scope, meter, each: &mut each, deep: Vec::new() };
    checker.directory(root, &EntryPath::root(), tree.root())?;
    while let Some((path, directory)) = checker.deep.pop() {
        // The directories above this one were checked.
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
    /// Deep directories that are still to be checked.
    deep: Vec<(EntryPath, &'t Directory)>,
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
        if (is_file || self.scope != Scope::Files)
            && let Some(drift) = self.drift(dir, &c_name, node)
        {
            (self.each)(parent.join(name), drift);
            if drift != Drift::Altered {
                return Ok(());
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

    fn drift(&self, dir: &Dir, name: &CStr, node: &Node) -> Option<Drift> {
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(err) if err.is_not_found() => {
                // The device was left out, because only root can make it.
                let left_out = is_device(node) && (!self.owner || self.is_kept());
                return (!left_out).then_some(Drift::Missing);
            }
            Err(_) => return Some(Drift::Other),
        };
        if FileType::from_raw_mode(stat.st_mode) != kind_of(node) {
            return Some(Drift::Other);
        }
        let meta = meta_of(node);
        let fits = self.fits(dir, name, &stat, node) && self.has_attributes(dir, name, meta);
        (!fits).then_some(Drift::Altered)
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
            // The time changes with every file that a service creates in it.
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
