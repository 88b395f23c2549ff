//! Finds the paths that differ between two stacks of layers. The module reads the archives and
//! needs no store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::Result;
use crate::layer::archive::Body;
use crate::layer::entry::{Entry, EntryPath};
use crate::layer::index::Index;
use crate::layer::pipeline;
use crate::layer::tar::tarball::Piece;
use crate::limits::Limits;
use crate::root::merge::merge;
use crate::root::tree::{Node, Tree};
use crate::store::extract::read_entries;

/// The number of bytes of contents that are hashed at a time.
const BUFFER: usize = 64 << 10;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// The path relative to the root.
    pub path: EntryPath,
    /// How the trees differ.
    pub how: How,
}

/// How two trees differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Only the later tree has the path.
    Added,
    /// Only the earlier tree has the path.
    Removed,
    /// Both trees have the path, but the kind of the file or the contents differ.
    Changed,
    /// Both trees have the path, and only the metadata differ.
    Metadata,
}

/// The sorted paths at which the roots of two stacks of layers differ. `open` opens the archive of
/// a layer. Each archive is read once.
pub fn changed_files(
    from: &[Digest],
    to: &[Digest],
    open: impl Fn(Digest) -> Result<File>,
    limits: Limits,
) -> Result<Vec<Changed>> {
    let mut indexes: BTreeMap<Digest, Index> = BTreeMap::new();
    for digest in from.iter().chain(to) {
        if !indexes.contains_key(digest) {
            indexes.insert(*digest, index_of(&mut open(*digest)?, limits)?);
        }
    }
    let tree = |digests: &[Digest]| merge(digests.iter().map(|digest| &indexes[digest]));
    Ok(between(&tree(from)?, &tree(to)?))
}

/// Makes the index of an archive in memory. The function writes no files.
fn index_of(archive: &mut (impl Read + Send), limits: Limits) -> Result<Index> {
    let mut index = Index::default();
    let (_, read) = pipeline::run(
        archive,
        limits,
        |_| {},
        |plain, framed| {
            let mut buffer = vec![0; BUFFER];
            let hash = |_, _: &Entry, mut body: Body<'_, _>| {
                while !matches!(body.next_piece(&mut buffer)?, Piece::End) {}
                Ok(body.content())
            };
            read_entries(plain, framed, limits, hash, |entry| {
                index.entries.push(entry);
                Ok(())
            })
        },
    );
    read?;
    Ok(index)
}

fn between(from: &Tree, to: &Tree) -> Vec<Changed> {
    let before: BTreeMap<EntryPath, &Node> = from.walk().collect();
    let after: BTreeMap<EntryPath, &Node> = to.walk().collect();
    let mut changes = Vec::new();
    for (path, node) in &after {
        let how = match before.get(path) {
            None => Some(How::Added),
            Some(old) => differs(old, node),
        };
        changes.extend(how.map(|how| Changed { path: path.clone(), how }));
    }
    let gone = before.into_keys().filter(|path| !after.contains_key(path));
    changes.extend(gone.map(|path| Changed { path, how: How::Removed }));
    changes.sort();
    changes
}

fn differs(one: &Node, other: &Node) -> Option<How> {
    let (same, meta) = match (one, other) {
        (Node::Directory(one), Node::Directory(other)) => (true, one.meta == other.meta),
        (Node::File(one), Node::File(other)) if Arc::ptr_eq(one, other) => return None,
        (Node::File(one), Node::File(other)) => {
            ((one.size, one.content) == (other.size, other.content), one.meta == other.meta)
        }
        (Node::Symlink(one), Node::Symlink(other)) => {
            (one.target == other.target, one.meta == other.meta)
        }
        (Node::Special(one), Node::Special(other)) => {
            (one.kind == other.kind, one.meta == other.meta)
        }
        _ => (false, false),
    };
    match (same, meta) {
        (true, true) => None,
        (true, false) => Some(How::Metadata),
        (false, _) => Some(How::Changed),
    }
}
