//! What each layer contributes: whiteouts and opaque directories (OCI Image Format
//! Specification 1.1, "Layer Filesystem Changeset") are resolved here, once and for all, so that
//! whoever unpacks the layers in order, an agent from before this importer too, gets the image.
//!
//! Pure. All layers are put into one tree of paths. What a layer removes is noted at the path,
//! as the number of the layer; what an earlier layer has at or below it is then left out of that
//! layer. Nothing is left out that is merely replaced, so that a layer depends on those above it
//! only where they remove something of it.

mod lead;
mod left;
mod stack;
mod tree;

use deploy_store::Digest;
use tree::Tree;

use crate::error::Result;
use crate::read::listing::Listing;

/// What becomes of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Members that are left out, by their numbers, in order: marks of removals, and what later
    /// layers remove.
    pub dropped: Vec<u32>,
    /// Hardlinks whose target is left out, or in a place that symlinks lead to, in order.
    pub relinked: Vec<(u32, Relink)>,
    /// Members whose path leads through symlinks of this layer or of those below, and where to,
    /// in order: not everybody who unpacks keeps such a path within the root.
    pub moved: Vec<(u32, Vec<u8>)>,
    /// Digest over what depends on the layers above; that of no bytes where nothing does.
    pub removals: Digest,
    /// Members that later layers remove.
    pub removed: usize,
    /// Members that stay, the root itself not counted.
    pub kept: usize,
}

/// What a hardlink becomes.
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
    /// What is in it.
    pub listing: &'a Listing,
}

/// Says what becomes of each of `layers`, lowest first. Its memory has a limit.
pub fn plan(layers: &[Layer<'_>]) -> Result<Vec<Planned>> {
    let mut tree = Tree::new(layers);
    for number in 0..layers.len() {
        tree.stack(u16::try_from(number).expect("images have no more layers than that"))?;
    }
    tree.planned()
}

#[cfg(test)]
mod tests;
