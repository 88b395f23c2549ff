//! Compares a directory with the tree that it should hold, entry by entry, by what the
//! inodes tell. Contents are not read: whoever writes to a file moves its time.

use std::ffi::CStr;

use rustix::fs::{FileType, Stat};

use super::place::c_name;
use super::tree::{Directory, Node, SpecialKind, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::layer::entry::EntryPath;

/// What of an entry is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// There is nothing.
    Missing,
    /// Nothing should be there.
    Extra,
    /// It is of another kind, or its size, mode, owner or time differs.
    Altered,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Regular files only: in a directory that nobody else can enter, but whose files
    /// have names elsewhere, nothing else can change.
    Files,
}

/// Tells `each` of every entry of `root` that is not what `tree` says; `owner` says
/// whether owners are restored.
pub fn check(
    root: &Dir,
    tree: &Tree,
    owner: bool,
    scope: Scope,
    mut each: impl FnMut(EntryPath, Drift),
) -> Result<()> {
    let mut checker = Checker { owner, scope, each: &mut each };
    checker.directory(root, &EntryPath::root(), tree.root())
}

struct Checker<'a> {
    owner: bool,
    scope: Scope,
    each: &'a mut dyn FnMut(EntryPath, Drift),
}

impl Checker<'_> {
    fn directory(&mut self, dir: &Dir, path: &EntryPath, directory: &Directory) -> Result<()> {
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
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, parent: &EntryPath, name: &[u8], node: &Node) -> Result<()> {
        let c_name = c_name(name)?;
        let is_file = matches!(node, Node::File(_));
        if is_file || self.scope == Scope::All {
            let stat = match dir.stat(&c_name) {
                Err(err) if err.is_not_found() => {
                    // A device that only root may make was left out.
                    if self.owner || !is_device(node) {
                        (self.each)(parent.join(name), Drift::Missing);
                    }
                    return Ok(());
                }
                other => other?,
            };
            if !self.fits(dir, &c_name, &stat, node) {
                (self.each)(parent.join(name), Drift::Altered);
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(());
                }
            }
        }
        let Node::Directory(below) = node else { return Ok(()) };
        self.directory(&dir.child(&c_name)?, &parent.join(name), below)
    }

    fn fits(&self, dir: &Dir, name: &CStr, stat: &Stat, node: &Node) -> bool {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match node {
            Node::File(file) => disk::carries(stat, file.size, &file.meta, self.owner),
            Node::Directory(directory) => {
                // Its time moves with whatever a service puts there for itself.
                kind == FileType::Directory
                    && disk::may_be_used_like(stat, &directory.meta, self.owner)
            }
            Node::Symlink(link) => {
                kind == FileType::Symlink
                    && dir.read_link(name).is_ok_and(|target| target.to_bytes() == &*link.target)
            }
            Node::Special(special) => {
                let expected = match special.kind {
                    SpecialKind::Fifo => FileType::Fifo,
                    SpecialKind::CharDevice(_) => FileType::CharacterDevice,
                    SpecialKind::BlockDevice(_) => FileType::BlockDevice,
                };
                kind == expected && disk::has(stat, &special.meta, self.owner)
            }
        }
    }
}

fn is_device(node: &Node) -> bool {
    matches!(node, Node::Special(special) if special.kind != SpecialKind::Fifo)
}
