//! Defines the tree of all paths in all layers. For each path, the tree has the last layer with
//! this path, and the last layer that removes it.

use std::cell::Cell;
use std::collections::HashMap;
use std::mem::size_of;
use std::rc::Rc;

use deploy_store::layer::entry::lossy;

use super::Layer;
use crate::error::{Error, Result};
use crate::read::listing::Sort;

/// The root of the tree.
pub(super) const ROOT: u32 = 0;
/// The maximum number of bytes of memory for the paths of all layers. A path takes about 250 bytes
/// of memory.
const MEMORY: usize = 256 << 20;
/// The maximum number of path parts that the planner resolves for all members of all layers
/// together.
const STEPS: u64 = 1 << 29;
/// The assumed memory, in bytes, of one more map entry or allocation.
pub(super) const ENTRY: usize = 64;

/// A layer's number and a member's number, both counted from 0.
pub(super) type At = (u16, u32);

/// The inode of an implied directory, for which no layer has an entry.
pub(super) const IMPLIED: At = (u16::MAX, u32::MAX);
/// The value for a member that has no node in the tree, such as a whiteout.
pub(super) const MARK: u32 = u32::MAX;

pub(super) struct Tree<'a> {
    pub layers: &'a [Layer<'a>],
    pub nodes: Vec<Node>,
    /// The node of each member of each layer.
    pub places: Vec<Vec<u32>>,
    pub links: Vec<Link>,
    /// The members whose paths lead through symlinks, in order.
    pub moved: Vec<At>,
    /// The parts of the limits [`MEMORY`] and [`STEPS`] that are still unused.
    memory: Cell<usize>,
    pub steps: u64,
}

/// The node of a path in the tree. `removed`, `hidden` and `layer` count layers from 1, and 0 means
/// no layer.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: u32,
    pub part: Rc<[u8]>,
    pub children: HashMap<Rc<[u8]>, u32>,
    /// `removed` is the last layer that removes the path. `hidden` is the last layer that removes
    /// everything below the path.
    pub removed: u16,
    pub hidden: u16,
    /// `layer` is the last layer that has the path. `sort` is the kind of the path in that layer.
    pub layer: u16,
    pub sort: Sort,
    /// `inode` is the member with the contents of the entry at the path. `name` is the last member
    /// with this path.
    pub inode: At,
    pub name: At,
}

/// A hardlink: the member that is the link, the member that the link names, and the member with the
/// contents.
pub(super) struct Link {
    pub at: At,
    pub name: At,
    pub inode: At,
    /// The node that the link leads to, if the link's target path leads through symlinks.
    pub through: Option<u32>,
}

impl Node {
    fn new(parent: u32, part: Rc<[u8]>) -> Self {
        Self {
            parent,
            part,
            children: HashMap::new(),
            removed: 0,
            hidden: 0,
            layer: 0,
            sort: Sort::Directory,
            inode: IMPLIED,
            name: IMPLIED,
        }
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(layers: &'a [Layer<'a>]) -> Self {
        let mut root = Node::new(ROOT, Rc::default());
        // Every layer has the root.
        root.layer = u16::MAX;
        Self {
            layers,
            nodes: vec![root],
            places: Vec::new(),
            links: Vec::new(),
            moved: Vec::new(),
            memory: Cell::new(MEMORY),
            steps: STEPS,
        }
    }

    /// Counts bytes towards the memory limit.
    pub(super) fn charge(&self, bytes: usize) -> Result<()> {
        let Some(left) = self.memory.get().checked_sub(bytes) else {
            let reason = format!("has paths that need more than {MEMORY} bytes of memory");
            return Err(Error::archive(reason));
        };
        self.memory.set(left);
        Ok(())
    }

    pub(super) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    pub(super) fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The last layer that removes the entries of earlier layers at this path.
    fn removed(&self, at: u32) -> u16 {
        let mut node = self.node(at);
        let mut removed = node.removed;
        let mut here = at;
        while here != ROOT {
            here = node.parent;
            node = self.node(here);
            removed = removed.max(node.removed).max(node.hidden);
        }
        removed
    }

    /// The last layer that removes the entries of earlier layers in this directory.
    pub(super) fn emptied(&self, at: u32) -> u16 {
        self.removed(at).max(self.node(at).hidden)
    }

    /// The kind of the entry at the path after all layers that are in the tree so far.
    pub(super) fn sort(&self, at: u32) -> Option<Sort> {
        self.sort_in(self.emptied(self.node(at).parent), at)
    }

    /// The kind of the entry at a path. `emptied` is the last layer that emptied the directory of
    /// the path.
    pub(super) fn sort_in(&self, emptied: u16, at: u32) -> Option<Sort> {
        let node = self.node(at);
        (node.layer > 0 && node.layer >= node.removed.max(emptied)).then_some(node.sort)
    }

    /// The path of a node, with the symlinks in its directories resolved.
    pub(super) fn path(&self, at: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut here = at;
        while here != ROOT {
            let node = self.node(here);
            parts.push(&*node.part);
            here = node.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    pub(super) fn child(&mut self, dir: u32, part: &[u8]) -> Result<u32> {
        if let Some(child) = self.node(dir).children.get(part) {
            return Ok(*child);
        }
        self.charge(size_of::<Node>() + part.len() + 2 * ENTRY)?;
        let child = u32::try_from(self.nodes.len()).expect("listings have a budget");
        let part: Rc<[u8]> = part.into();
        self.nodes.push(Node::new(dir, Rc::clone(&part)));
        self.node_mut(dir).children.insert(part, child);
        Ok(child)
    }
}

pub(super) fn bad(layer: u16, path: &[u8], reason: impl Into<String>) -> Error {
    Error::Entry { layer: usize::from(layer) + 1, entry: lossy(path), reason: reason.into() }
}
