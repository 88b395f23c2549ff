//! The difference of two trees: what has to be done to a directory that holds the one
//! so that it holds the other. Pure; what the trees share is not looked at.

use std::sync::Arc;

use super::tree::{Directory, File, Node, Tree};
use crate::layer::entry::EntryPath;

/// One step from a tree to another.
#[derive(Debug)]
pub enum Step<'a> {
    /// Take away what stands at the path, with all below it.
    Remove(EntryPath, &'a Node),
    /// Place what stands at the path now, with all below it; nothing is there.
    Place(EntryPath, &'a Node),
    /// Give the file the contents and the time of this one; all else of it stays.
    Rewrite(EntryPath, &'a File),
    /// Give the directory, which carries what the first does, the metadata of the second:
    /// something in it has changed, or they have.
    Finish(EntryPath, &'a Directory, &'a Directory),
}

impl Step<'_> {
    /// Where it is taken.
    pub fn path(&self) -> &EntryPath {
        let (Self::Remove(path, _)
        | Self::Place(path, _)
        | Self::Rewrite(path, _)
        | Self::Finish(path, ..)) = self;
        path
    }
}

/// The steps from `old` to `new`, in an order in which they can be taken: a directory is
/// finished after all in it. `rewrite`: files may be written to, they are nobody else's.
pub fn diff<'a>(old: &'a Tree, new: &'a Tree, rewrite: bool) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    between(&EntryPath::root(), old.root(), new.root(), rewrite, &mut steps);
    steps
}

/// Adds the steps between two directories; whether names in it have come or gone.
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
        // The name that comes first, and what it stood and stands for.
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

/// Whether one file becomes the other by its contents and time alone. What a write takes
/// away (setuid, setgid, capabilities) or a user may not do is left to a new file.
fn fits(one: &File, other: &File) -> bool {
    let (is, should) = (&one.meta, &other.meta);
    !one.is_linked()
        && !other.is_linked()
        && (is.mode, is.uid, is.gid) == (should.mode, should.uid, should.gid)
        && is.mode & 0o6200 == 0o200
        && is.xattrs.is_empty()
        && should.xattrs.is_empty()
}

/// Whether what stands for one may stay for the other. Files with several names are the
/// same only if they are one: equal ones may have other names.
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
