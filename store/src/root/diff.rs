//! Computes the difference of two trees: the steps that change a directory from one tree to the
//! other. The comparison skips directories that both trees share in memory, and does not use the
//! disk.

use std::sync::Arc;

use super::tree::{Directory, File, Node, Tree};
use crate::layer::entry::EntryPath;

/// One step of the change from one tree to another.
#[derive(Debug)]
pub enum Step<'a> {
    /// Remove the entry at the path, with all entries below the path.
    Remove(EntryPath, &'a Node),
    /// Place the new entry at the path, with all entries below the path. No entry is at the path
    /// before this step.
    Place(EntryPath, &'a Node),
    /// Give the file at the path the contents and the time of the new file. Everything else stays.
    Rewrite(EntryPath, &'a File),
    /// Change the metadata of a directory from the metadata of the first node to the metadata of
    /// the second node. If entries of the directory change, this step comes after these changes.
    Finish(EntryPath, &'a Directory, &'a Directory),
}

impl Step<'_> {
    /// The path of the step.
    pub fn path(&self) -> &EntryPath {
        let (Self::Remove(path, _)
        | Self::Place(path, _)
        | Self::Rewrite(path, _)
        | Self::Finish(path, ..)) = self;
        path
    }
}

/// The steps from `old` to `new`, in a valid order: a directory is finished after all its entries.
/// `rewrite` states that inodes are not shared, so that files may be rewritten in place.
pub fn diff<'a>(old: &'a Tree, new: &'a Tree, rewrite: bool) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    between(&EntryPath::root(), old.root(), new.root(), rewrite, &mut steps);
    steps
}

/// Appends to `steps` the steps that turn `old` into `new`. Returns whether names in the directory
/// were added or removed.
fn between<'a>(
    path: &EntryPath,
    old: &'a Arc<Directory>,
    new: &'a Arc<Directory>,
    rewrite: bool,
    steps: &mut Vec<Step<'a>>,
) -> bool {
    if Arc::ptr_eq(old, new) {
        return false;
    }
    let mut touched = false;
    let (mut before, mut after) = (old.iter().peekable(), new.iter().peekable());
    loop {
        // The smallest name that is left in either directory.
        let name = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some((name, _)), None) | (None, Some((name, _))) => *name,
            (Some((one, _)), Some((other, _))) => *one.min(other),
        };
        let gone = before.next_if(|(other, _)| *other == name).map(|(_, node)| node);
        let come = after.next_if(|(other, _)| *other == name).map(|(_, node)| node);
        match (gone, come) {
            (Some(Node::Directory(one)), Some(Node::Directory(other))) => {
                let path = path.join(name);
                if between(&path, one, other, rewrite, steps) || one.meta != other.meta {
                    steps.push(Step::Finish(path, one, other));
                }
            }
            (Some(one), Some(other)) if same(one, other) => {}
            (Some(Node::File(one)), Some(Node::File(other))) if rewrite && fits(one, other) => {
                steps.push(Step::Rewrite(path.join(name), other));
            }
            (gone, come) => {
                touched = true;
                steps.extend(gone.map(|node| Step::Remove(path.join(name), node)));
                steps.extend(come.map(|node| Step::Place(path.join(name), node)));
            }
        }
    }
    touched
}

/// Whether one file can be rewritten as the other file, because the two files differ only in
/// contents and time. A file with setuid, setgid or attributes does not fit, because a write would
/// remove setuid, setgid and capabilities. A file that its owner may not write to does not fit,
/// either. Files that do not fit are created again.
fn fits(one: &File, other: &File) -> bool {
    let (is, should) = (&one.meta, &other.meta);
    !one.is_linked()
        && !other.is_linked()
        && (is.mode, is.uid, is.gid) == (should.mode, should.uid, should.gid)
        && is.mode & 0o6200 == 0o200
        && is.xattrs.is_empty()
        && should.xattrs.is_empty()
}

/// Whether the old node may stay. Two nodes of files with several names count as the same only if
/// they share one `Arc`, because an equal file may have other names.
fn same(one: &Node, other: &Node) -> bool {
    match (one, other) {
        (Node::File(one), Node::File(other)) => {
            Arc::ptr_eq(one, other) || (!one.is_linked() && !other.is_linked() && one.equals(other))
        }
        (Node::Symlink(one), Node::Symlink(other)) => one == other,
        (Node::Special(one), Node::Special(other)) => one == other,
        _ => false,
    }
}
