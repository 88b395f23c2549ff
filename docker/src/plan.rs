//! Plans which members each layer contributes to the image. Whiteouts and opaque directories (OCI
//! Image Format Specification 1.1, "Layer Filesystem Changeset") are resolved here. So every agent
//! that unpacks the layers in order gets the image, even if the agent is older than this importer.
//!
//! All layers are put into one tree of paths. A removal is noted at the removed path, with the
//! number of the layer that removes the path. The members that earlier layers have at or below
//! this path are left out. A member that a later layer replaces but does not remove stays.
//! So a layer depends on later layers only if they remove one of its members. The planner does not
//! use the disk or the network.

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
    /// The numbers of the members that are left out, in order. These are whiteouts, and members
    /// that later layers remove.
    pub dropped: Vec<u32>,
    /// The hardlinks whose target is left out or is reached through symlinks, in order.
    pub relinked: Vec<(u32, Relink)>,
    /// The members whose path leads through symlinks of this layer or of lower layers, in order and
    /// with the resolved path. Not every unpacker keeps such a path within the root.
    pub moved: Vec<(u32, Vec<u8>)>,
    /// The digest over everything in the plan that depends on later layers. If nothing depends on
    /// later layers, this is the digest of no bytes.
    pub removals: Digest,
    /// The number of members that later layers remove.
    pub removed: usize,
    /// The number of members that stay, including an entry of the root itself.
    pub kept: usize,
}

/// The replacement of a hardlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relink {
    /// A hardlink to this name of the file.
    To(Vec<u8>),
    /// The file itself, which is a member of a layer.
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
    /// The sha256 of the layer's tar.
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
