//! The tree of all paths that any layer has, and which layer has or removes what.

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
/// Bytes of memory for all paths of all layers; one takes some 250.
const MEMORY: usize = 256 << 20;
/// Steps from one directory to the next, for all members of all layers.
const STEPS: u64 = 1 << 29;
/// Bytes that a map takes for one more entry, and an allocation of its own.
pub(super) const ENTRY: usize = 64;

/// A member of a layer; both numbers are from 0.
pub(super) type At = (u16, u32);

/// No member made it: a directory that paths lead through.
pub(super) const IMPLIED: At = (u16::MAX, u32::MAX);
/// The place of a member that is a mark, and no entry.
pub(super) const MARK: u32 = u32::MAX;

pub(super) struct Tree<'a> {
    pub layers: &'a [Layer<'a>],
    pub nodes: Vec<Node>,
    /// For each member of each layer, the node that it is at.
    pub places: Vec<Vec<u32>>,
    pub links: Vec<Link>,
    /// Members whose paths lead through symlinks, in order.
    pub moved: Vec<At>,
    /// Of [`MEMORY`] and [`STEPS`], what is left.
    memory: Cell<usize>,
    pub steps: u64,
}

/// A path that any of the layers has. Layers are counted from 1 here, 0 is none.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: u32,
    pub part: Rc<[u8]>,
    pub children: HashMap<Rc<[u8]>, u32>,
    /// The last layer that removes it, and the last that removes what is below it.
    pub removed: u16,
    pub hidden: u16,
    /// The last layer that has it, and as what.
    pub layer: u16,
    pub sort: Sort,
    /// The member that is its inode, and the one that is its name.
    pub inode: At,
    pub name: At,
}

/// A hardlink, the name that it leads to, and the member with the contents.
pub(super) struct Link {
    pub at: At,
    pub name: At,
    pub inode: At,
    /// The place of the name, if the way there leads through symlinks.
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
        // It is there whatever the layers have.
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

    /// Takes so many bytes of what there is.
    pub(super) fn charge(&self, bytes: usize) -> Result<()> {
        let Some(left) = self.memory.get().checked_sub(bytes) else {
            let reason = format!("has more paths than {MEMORY} bytes of memory have room for");
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

    /// The last layer that removes what earlier ones have at this path.
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

    /// The last layer that removes what earlier ones have in this directory.
    pub(super) fn emptied(&self, at: u32) -> u16 {
        self.removed(at).max(self.node(at).hidden)
    }

    /// What is at the path by now.
    pub(super) fn sort(&self, at: u32) -> Option<Sort> {
        self.sort_in(self.emptied(self.node(at).parent), at)
    }

    /// The same, of what is in a directory that was last emptied by a layer.
    pub(super) fn sort_in(&self, emptied: u16, at: u32) -> Option<Sort> {
        let node = self.node(at);
        (node.layer > 0 && node.layer >= node.removed.max(emptied)).then_some(node.sort)
    }

    /// The path of a node: no part of it is a symlink.
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
