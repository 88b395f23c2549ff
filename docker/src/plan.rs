//! Plans what each layer contributes. Whiteouts and opaque directories (OCI Image Format
//! Specification 1.1, "Layer Filesystem Changeset") are resolved here. So every agent that unpacks
//! the layers in order gets the image, even an agent older than this importer.
//!
//! Pure. All layers are put into one tree of paths. A removal is noted at its path, with the number
//! of the layer. Everything that an earlier layer has at or below that path is left out of that
//! layer. A member that is only replaced stays, so a layer depends on later layers only where they
//! remove something from it.

mod left;
mod path_tree;
mod resolve_links;
mod stack;

use deploy_store::Digest;
use path_tree::Tree;

use crate::error::Result;
use crate::read::listing::Listing;

/// The plan of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Members that are left out, by their numbers, in order: whiteouts, and members that later
    /// layers remove.
    pub dropped: Vec<u32>,
    /// Hardlinks whose target is left out, or is reached through symlinks, in order.
    pub relinked: Vec<(u32, Relink)>,
    /// Members whose path leads through symlinks of this layer or of lower layers, with the
    /// resolved path, in order. Not every unpacker keeps such a path within the root.
    pub moved: Vec<(u32, Vec<u8>)>,
    /// Digest over everything that depends on later layers; the digest of no bytes if nothing
    /// depends on them.
    pub removals: Digest,
    /// Members that later layers remove.
    pub removed: usize,
    /// Members that stay, an entry of the root itself included.
    pub kept: usize,
}

/// The replacement of a hardlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relink {
    /// A link to this name of the file.
    To(Vec<u8>),
    /// The file itself: a member of a layer.
    File {
        /// The layer's number, from 0.
        layer: u16,
        /// The member's number.
        member: u32,
    },
}

/// A layer to be planned.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// sha256 of its tar.
    pub diff_id: Digest,
    /// The contents of the layer.
    pub listing: &'a Listing,
}

/// Plans each of `layers`, lowest first. The memory of a plan is limited.
pub fn plan(layers: &[Layer<'_>]) -> Result<Vec<Planned>> {
    let mut tree = Tree::new(layers);
    for number in 0..layers.len() {
        tree.stack(u16::try_from(number).expect("images have no more layers than that"))?;
    }
    tree.planned()
}

#[cfg(test)]
mod tests;
