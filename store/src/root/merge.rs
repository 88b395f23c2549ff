//! Merges layers into a tree: every entry of every layer in order, later ones win.
//! Pure, and the same for entries of one layer as for those of several.
//!
//! Paths are resolved as if chrooted into the tree that stands so far: `..` stops at
//! the root and absolute symlinks start there. The tree that comes out has no path
//! that passes through a symlink, so whoever builds it never follows one.

use std::collections::HashMap;

use super::tree::{File, FileId, Node, Special, Tree};
use crate::error::{Error, Result};
use crate::layer::entry::{Entry, EntryPath, Kind, bad_entry, lossy};
use crate::layer::index::Index;
use crate::limits::Limits;
use crate::meta::Meta;

/// Most symlinks on the way of one path, as in the kernel.
const MAX_HOPS: usize = 40;
/// Mode of directories that no entry made.
const IMPLICIT_MODE: u32 = 0o755;

/// The tree of `layers`, lowest first.
pub fn merge<'a>(layers: impl IntoIterator<Item = &'a Index>) -> Result<Tree> {
    let mut tree = Tree::default();
    for layer in layers {
        apply(&mut tree, layer, MissingTarget::Refuse)?;
    }
    Ok(tree)
}

/// Whether `layer` can be merged at all. Targets of hardlinks may be in layers below,
/// which nobody knows yet.
pub fn check(layer: &Index) -> Result<()> {
    apply(&mut Tree::default(), layer, MissingTarget::PassOver)
}

/// What to do about a hardlink to nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MissingTarget {
    Refuse,
    PassOver,
}

fn apply(tree: &mut Tree, layer: &Index, missing: MissingTarget) -> Result<()> {
    // Entries of one directory come together: its resolved path is kept until
    // something other than a file changes, which might change where it leads.
    let mut parents: HashMap<EntryPath, EntryPath> = HashMap::new();
    for entry in &layer.entries {
        let Some((parent, name)) = entry.path.split() else { continue };
        let parent = match parents.get(&parent) {
            Some(resolved) => resolved.clone(),
            None => {
                let resolved = directory(tree, entry, &parent)?;
                parents.insert(parent, resolved.clone());
                resolved
            }
        };
        let path = parent.join(name);
        let replaced = place(tree, entry, path, missing)?;
        if replaced == Replaced::Path {
            parents.clear();
        }
    }
    Ok(())
}

/// What an entry did to the tree.
#[derive(PartialEq, Eq)]
enum Replaced {
    /// Nothing that a path could pass through.
    Leaf,
    /// A directory or a symlink came or went.
    Path,
}

fn place(
    tree: &mut Tree,
    entry: &Entry,
    path: EntryPath,
    missing: MissingTarget,
) -> Result<Replaced> {
    let node = match &entry.kind {
        Kind::Directory => {
            place_directory(tree, entry, path);
            return Ok(Replaced::Leaf);
        }
        Kind::File { size, content } => {
            let file = File { size: *size, content: *content, meta: entry.meta.clone() };
            Node::File(add_file(tree, file, entry)?)
        }
        Kind::Hardlink(target) => match linked(tree, entry, target)? {
            Some((at, _)) if at == path => return Ok(Replaced::Leaf),
            Some((_, node)) => node,
            None if missing == MissingTarget::PassOver => return Ok(Replaced::Leaf),
            None => {
                let reason = format!("is a hardlink to {target:?}, which is not there");
                return Err(bad_entry(entry.path.as_bytes(), reason));
            }
        },
        Kind::Symlink(target) => Node::Symlink { target: target.clone(), meta: entry.meta.clone() },
        Kind::Fifo => Node::Special { kind: Special::Fifo, meta: entry.meta.clone() },
        Kind::CharDevice(device) => {
            Node::Special { kind: Special::CharDevice(*device), meta: entry.meta.clone() }
        }
        Kind::BlockDevice(device) => {
            Node::Special { kind: Special::BlockDevice(*device), meta: entry.meta.clone() }
        }
    };
    let mut replaced = match node {
        Node::Symlink { .. } => Replaced::Path,
        _ => Replaced::Leaf,
    };
    match tree.nodes.insert(path.clone(), node) {
        Some(Node::Directory(_)) => {
            remove_below(tree, &path);
            replaced = Replaced::Path;
        }
        Some(Node::Symlink { .. }) => replaced = Replaced::Path,
        _ => {}
    }
    Ok(replaced)
}

/// A directory over a directory gives it its metadata; over a symlink that leads to
/// one, the symlink stays and the directory it leads to gets them; over anything else
/// it replaces it. No path that was resolved before leads elsewhere afterwards.
fn place_directory(tree: &mut Tree, entry: &Entry, path: EntryPath) {
    let meta = entry.meta.clone();
    if let Some(Node::Symlink { .. }) = tree.nodes.get(&path)
        && let Ok(Some(at)) = resolve(tree, &path)
    {
        if let Some(Node::Directory(there)) = tree.nodes.get_mut(&at) {
            *there = meta;
        }
        return;
    }
    tree.nodes.insert(path, Node::Directory(meta));
}

fn add_file(tree: &mut Tree, file: File, entry: &Entry) -> Result<FileId> {
    let id = u32::try_from(tree.files.len())
        .map_err(|_| bad_entry(entry.path.as_bytes(), "is one file too many"))?;
    tree.files.push(file);
    Ok(FileId(id))
}

fn remove_below(tree: &mut Tree, path: &EntryPath) {
    let below: Vec<EntryPath> = tree
        .nodes
        .range(path.clone()..)
        .skip(1)
        .map(|(at, _)| at)
        .take_while(|at| path.is_above(at))
        .cloned()
        .collect();
    for at in below {
        tree.nodes.remove(&at);
    }
}

/// Where the target of a hardlink is and what stands there; a symlink there is linked
/// itself, not followed.
fn linked(tree: &Tree, entry: &Entry, target: &EntryPath) -> Result<Option<(EntryPath, Node)>> {
    let Some((parent, name)) = target.split() else { return Ok(None) };
    let Ok(Some(parent)) = resolve(tree, &parent) else { return Ok(None) };
    let at = parent.join(name);
    match tree.nodes.get(&at) {
        None => Ok(None),
        Some(node @ (Node::File(_) | Node::Symlink { .. })) => Ok(Some((at, node.clone()))),
        Some(_) => {
            let reason = format!("is a hardlink to {target:?}, which is no file");
            Err(bad_entry(entry.path.as_bytes(), reason))
        }
    }
}

/// The directory that `path` leads to, made with its parents where there is nothing.
fn directory(tree: &mut Tree, entry: &Entry, path: &EntryPath) -> Result<EntryPath> {
    let mut at = EntryPath::root();
    for part in path.parts() {
        let next = at.join(part);
        at = match tree.nodes.get(&next) {
            None => {
                let Meta { uid, gid, mtime, .. } = entry.meta;
                let meta = Meta { mode: IMPLICIT_MODE, uid, gid, mtime, xattrs: Box::default() };
                tree.nodes.insert(next.clone(), Node::Directory(meta));
                next
            }
            Some(Node::Directory(_)) => next,
            Some(Node::Symlink { target, .. }) => match resolve(tree, &next) {
                Ok(Some(at)) => at,
                _ => {
                    return Err(no_directory(
                        entry,
                        &next,
                        &format!("a symlink to {:?} that leads to no directory", lossy(target)),
                    ));
                }
            },
            Some(Node::File(_) | Node::Special { .. }) => {
                return Err(no_directory(entry, &next, "no directory"));
            }
        };
    }
    Ok(at)
}

fn no_directory(entry: &Entry, at: &EntryPath, what: &str) -> Error {
    bad_entry(entry.path.as_bytes(), format!("passes through {at:?}, which is {what}"))
}

/// The directory that `path` leads to, following symlinks inside the tree. `None` when
/// it leads to nothing or to something else.
fn resolve(tree: &Tree, path: &EntryPath) -> Result<Option<EntryPath>> {
    let mut rest: Vec<Box<[u8]>> = path.parts().map(Into::into).collect();
    rest.reverse();
    let mut at = EntryPath::root();
    let mut hops = 0;
    while let Some(part) = rest.pop() {
        match &*part {
            b"" | b"." => continue,
            b".." => {
                at = at.split().map_or_else(EntryPath::root, |(parent, _)| parent);
                continue;
            }
            _ => {}
        }
        let next = at.join(&part);
        match tree.nodes.get(&next) {
            Some(Node::Directory(_)) => at = next,
            Some(Node::Symlink { target, .. }) => {
                hops += 1;
                if hops > MAX_HOPS {
                    let limit = MAX_HOPS as u64;
                    let what = format!("number of symlinks on the way of {path:?}");
                    return Err(Error::OverLimit { what, limit });
                }
                if target.starts_with(b"/") {
                    at = EntryPath::root();
                }
                rest.extend(target.split(|&byte| byte == b'/').rev().map(Into::into));
            }
            _ => return Ok(None),
        }
        if at.as_bytes().len() > Limits::STANDARD.path_len {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests;
