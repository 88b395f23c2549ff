//! Merges layers into a tree. The merge takes every entry of every layer in order, and later
//! entries win. It makes no difference whether two entries are in one layer or in two layers. The
//! merge does not use the disk.
//!
//! Paths are resolved as in a chroot to the tree so far: `..` stops at the root, and absolute
//! symlinks start at the root. The resulting tree has no path that passes through a symlink, so a
//! build of the tree never follows a symlink.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;

use super::tree::{Directory, File, Node, Special, SpecialKind, Symlink, Tree};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::{Entry, EntryPath, Kind, bad_entry, lossy};
use crate::layer::index::Index;
use crate::limits::Limits;
use crate::owners::Owners;

/// The maximum number of symlinks that one path may pass through, as in the kernel.
const MAX_HOPS: usize = 40;
/// The maximum total length, in bytes, of the paths that are looked up for one layer. There is a
/// limit because each path may lead through many symlinks.
const MAX_LOOKED_UP: u64 = 1 << 33;
/// The maximum number of directories whose resolved paths are kept.
const PARENTS: usize = 1024;

/// Merges `layers`, which are ordered from the lowest to the highest, into a tree.
pub fn merge<'a>(layers: impl IntoIterator<Item = &'a Index>) -> Result<Tree> {
    let mut tree = Tree::default();
    for layer in layers {
        add_layer(&mut tree, layer.entries.iter().map(Ok))?;
    }
    Ok(tree)
}

/// Adds the entries of one more layer on top of `tree`. After an error, the tree must not be used.
pub fn add_layer(
    tree: &mut Tree,
    layer: impl IntoIterator<Item = Result<impl Borrow<Entry>>>,
) -> Result<()> {
    add_layer_owned(tree, layer, &Owners::default())
}

/// Like [`add_layer`], but applies the rules `owners`.
pub fn add_layer_owned(
    tree: &mut Tree,
    layer: impl IntoIterator<Item = Result<impl Borrow<Entry>>>,
    owners: &Owners,
) -> Result<()> {
    if !owners.is_empty() && !tree.is_described() {
        let mut meta = tree.root().meta.clone();
        owners.give(&EntryPath::root(), &mut meta, false);
        tree.describe_owner(meta);
    }
    apply(tree, layer, MissingTarget::Refuse, owners)
}

/// Checks that `layer` can be merged onto lower layers that are not known yet. The targets of
/// hardlinks and symlinks may be in these lower layers.
pub fn check(layer: &Index) -> Result<()> {
    let entries = layer.entries.iter().map(Ok);
    apply(&mut Tree::default(), entries, MissingTarget::PassOver, &Owners::default())
}

/// The total length in bytes of the paths that were looked up.
struct LookedUp(u64);

impl LookedUp {
    fn count(&mut self, path: &EntryPath) -> Result<()> {
        self.0 += path.as_bytes().len() as u64 + 1;
        if self.0 > MAX_LOOKED_UP {
            let what = "size of the paths that a layer's entries lead through".to_owned();
            return Err(Error::OverLimit { what, limit: MAX_LOOKED_UP });
        }
        Ok(())
    }
}

/// What to do about a hardlink whose target does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MissingTarget {
    Refuse,
    PassOver,
}

fn apply(
    tree: &mut Tree,
    layer: impl IntoIterator<Item = Result<impl Borrow<Entry>>>,
    missing: MissingTarget,
    owners: &Owners,
) -> Result<()> {
    // The entries of one directory usually come together, so the resolved paths of directories are
    // kept. All kept paths are discarded when they may lead elsewhere (see [`Replaced::Path`]).
    let mut parents: HashMap<EntryPath, EntryPath> = HashMap::new();
    let mut looked_up = LookedUp(0);
    for entry in layer {
        let entry = entry?;
        let entry = entry.borrow();
        let Some((parent, name)) = entry.path.split() else {
            tree.describe(owned(owners, &entry.path, entry));
            continue;
        };
        let parent = match parents.get(&parent) {
            Some(resolved) => resolved.clone(),
            None => {
                let resolved = match directory(tree, entry, &parent, owners, &mut looked_up)? {
                    Way::Directory(resolved) => resolved,
                    // The target of the symlink depends on the lower layers. So the meaning of the
                    // following entries is not known, either.
                    Way::Nowhere(_) if missing == MissingTarget::PassOver => return Ok(()),
                    Way::Nowhere(err) => return Err(err),
                };
                if parents.len() >= PARENTS {
                    parents.clear();
                }
                parents.insert(parent, resolved.clone());
                resolved
            }
        };
        let path = parent.join(name);
        let meta = owned(owners, &path, entry);
        let replaced = place(tree, entry, &path, meta, missing, &mut looked_up)?;
        if replaced == Replaced::Path {
            parents.clear();
        }
    }
    Ok(())
}

/// The metadata of `entry` for its resolved path `path`, with the owner that the rules state.
fn owned(owners: &Owners, path: &EntryPath, entry: &Entry) -> Meta {
    let mut meta = entry.meta.clone();
    owners.give(path, &mut meta, matches!(entry.kind, Kind::File { .. }));
    meta
}

/// The effect of an entry on the paths that were resolved before.
#[derive(PartialEq, Eq)]
enum Replaced {
    /// All paths that were resolved before still lead to the same place.
    Leaf,
    /// A symlink was added, or another node replaced a symlink or a directory. Paths that were
    /// resolved before may now lead elsewhere.
    Path,
}

fn place(
    tree: &mut Tree,
    entry: &Entry,
    path: &EntryPath,
    meta: Meta,
    missing: MissingTarget,
    looked_up: &mut LookedUp,
) -> Result<Replaced> {
    let node = match &entry.kind {
        Kind::Directory => {
            place_directory(tree, meta, path, looked_up);
            return Ok(Replaced::Leaf);
        }
        Kind::File { size, content } => Node::File(Arc::new(File::new(*size, *content, meta))),
        Kind::Hardlink(target) => match linked(tree, entry, target, looked_up)? {
            Some((at, _)) if at == *path => return Ok(Replaced::Leaf),
            Some((_, node)) => node,
            None if missing == MissingTarget::PassOver => return Ok(Replaced::Leaf),
            None => {
                let reason = format!("is a hardlink to {target:?}, which does not exist");
                return Err(bad_entry(entry.path.as_bytes(), reason));
            }
        },
        Kind::Symlink(target) => Node::Symlink(Arc::new(Symlink { target: target.clone(), meta })),
        Kind::Fifo => special(SpecialKind::Fifo, meta),
        Kind::CharDevice(device) => special(SpecialKind::CharDevice(*device), meta),
        Kind::BlockDevice(device) => special(SpecialKind::BlockDevice(*device), meta),
    };
    let leads_on = |node: &Node| matches!(node, Node::Symlink(_) | Node::Directory(_));
    let leads_now = leads_on(&node);
    let led_before = insert(tree, path, node).as_ref().is_some_and(leads_on);
    Ok(if leads_now || led_before { Replaced::Path } else { Replaced::Leaf })
}

fn special(kind: SpecialKind, meta: Meta) -> Node {
    Node::Special(Arc::new(Special { kind, meta }))
}

/// Puts `node` at `path`, whose directory must exist. Returns the replaced node.
fn insert(tree: &mut Tree, path: &EntryPath, node: Node) -> Option<Node> {
    let (parent, name) = path.split()?;
    tree.directory_mut(&parent).children.insert(name.into(), node)
}

/// Makes an empty directory.
fn new_directory(meta: Meta) -> Node {
    Node::Directory(Arc::new(Directory { meta, ..Directory::default() }))
}

/// Places a directory. An existing directory stays, and gets the metadata `meta`. An existing
/// symlink to a directory also stays, and the target directory gets `meta`. Any other node is
/// replaced. Afterwards, all paths that were resolved before still lead to the same place.
fn place_directory(tree: &mut Tree, meta: Meta, path: &EntryPath, looked_up: &mut LookedUp) {
    match tree.get(path) {
        Some(Node::Directory(_)) => tree.directory_mut(path).meta = meta,
        Some(Node::Symlink(_)) if let Ok(Some(at)) = resolve(tree, path, looked_up) => {
            // The root itself keeps its metadata.
            if !at.is_root() {
                tree.directory_mut(&at).meta = meta;
            }
        }
        _ => {
            insert(tree, path, new_directory(meta));
        }
    }
}

/// Finds the path and the node of a hardlink's target. If the target is a symlink, the hardlink is
/// another name of the symlink itself.
fn linked(
    tree: &Tree,
    entry: &Entry,
    target: &EntryPath,
    looked_up: &mut LookedUp,
) -> Result<Option<(EntryPath, Node)>> {
    let Some((parent, name)) = target.split() else { return Ok(None) };
    let Ok(Some(parent)) = resolve(tree, &parent, looked_up) else { return Ok(None) };
    let at = parent.join(name);
    match tree.get(&at) {
        None => Ok(None),
        Some(node @ (Node::File(_) | Node::Symlink(_))) => {
            if let Node::File(file) = node {
                file.set_linked();
            }
            Ok(Some((at.clone(), node.clone())))
        }
        Some(_) => {
            let reason = format!("is a hardlink to {target:?}, which is not a file");
            Err(bad_entry(entry.path.as_bytes(), reason))
        }
    }
}

/// Where a path leads.
enum Way {
    /// The path leads to a directory.
    Directory(EntryPath),
    /// In this tree, the path leads through a symlink whose target is missing or is not a
    /// directory.
    Nowhere(Error),
}

/// Finds the directory that `path` leads to. A missing directory and its missing parents are
/// created.
fn directory(
    tree: &mut Tree,
    entry: &Entry,
    path: &EntryPath,
    owners: &Owners,
    looked_up: &mut LookedUp,
) -> Result<Way> {
    let mut at = EntryPath::root();
    for part in path.parts() {
        let next = at.join(part);
        looked_up.count(&next)?;
        at = match tree.get(&next) {
            None => {
                if next.parts().count() > Limits::STANDARD.depth {
                    let what =
                        format!("depth of archive entry {:?} with symlinks resolved", entry.path);
                    return Err(Error::OverLimit { what, limit: Limits::STANDARD.depth as u64 });
                }
                let mut meta = Directory::implied(entry.meta.mtime);
                owners.give(&next, &mut meta, false);
                insert(tree, &next, new_directory(meta));
                next
            }
            Some(Node::Directory(_)) => next,
            Some(Node::Symlink(link)) => match resolve(tree, &next, looked_up) {
                Ok(Some(at)) => at,
                led => {
                    let to = lossy(&link.target);
                    let what = format!(
                        "a symlink to {to:?} whose target is missing or is not a directory"
                    );
                    let err = no_directory(entry, &next, &what);
                    return led.and(Ok(Way::Nowhere(err)));
                }
            },
            Some(Node::File(_) | Node::Special(_)) => {
                return Err(no_directory(entry, &next, "not a directory"));
            }
        };
    }
    Ok(Way::Directory(at))
}

fn no_directory(entry: &Entry, at: &EntryPath, what: &str) -> Error {
    bad_entry(entry.path.as_bytes(), format!("passes through {at:?}, which is {what}"))
}

/// Finds the directory that `path` leads to, and follows symlinks inside the tree. `None` if there
/// is no such directory.
fn resolve(tree: &Tree, path: &EntryPath, looked_up: &mut LookedUp) -> Result<Option<EntryPath>> {
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
        looked_up.count(&next)?;
        match tree.get(&next) {
            Some(Node::Directory(_)) => at = next,
            Some(Node::Symlink(link)) => {
                let target = &link.target;
                hops += 1;
                if hops > MAX_HOPS {
                    let limit = MAX_HOPS as u64;
                    let what = format!("number of symlinks in the path {path:?}");
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
