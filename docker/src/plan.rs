//! Plans which members each layer contributes to the image. The planner resolves whiteouts and
//! opaque directories (OCI Image Format Specification 1.1, "Layer Filesystem Changeset"). Agents
//! need not support whiteouts: every agent that unpacks the planned layers in order gets the image,
//! even if the agent is older than this importer.
//!
//! The planner puts all layers into one tree of paths. Each removed path has the number of the
//! layer that removes the path. A layer also removes a path by an entry of another kind at this
//! path. The planner leaves out the members that earlier layers have at or below a removed path.
//! The planner keeps a member that a later layer replaces but does not remove. So the plan of a
//! layer depends on a later layer only if the later layer removes members of the earlier one. The
//! planner uses neither the disk nor the network.

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
    /// The numbers of the members that the planner leaves out, in order. These members are the
    /// layer's whiteouts and files of aufs, and the members that later layers remove.
    pub dropped: Vec<u32>,
    /// The hardlinks that get a replacement, in order. The target of such a hardlink is left out,
    /// or the path to the target leads through symlinks.
    pub relinked: Vec<(u32, Relink)>,
    /// The members whose path leads through symlinks of this layer or of lower layers, in order.
    /// Each member has its resolved path, because some unpackers would follow the symlinks out of
    /// the root.
    pub moved: Vec<(u32, Vec<u8>)>,
    /// The digest over the differences between the plan and the unchanged layer. If the only
    /// differences are left-out whiteouts, this is the digest of an empty input.
    pub removals: Digest,
    /// The number of members that later layers remove.
    pub removed: usize,
    /// The number of members that stay, including an entry of the root itself.
    pub kept: usize,
}

/// The replacement of a hardlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relink {
    /// A hardlink with this path as its target.
    To(Vec<u8>),
    /// A copy of a file that is a member of this layer or of a lower layer.
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
    /// The members of the layer.
    pub listing: &'a Listing,
}

/// Plans each of `layers`, lowest first. Fails if a member cannot be placed, or if the plans would
/// need too much memory or too many steps.
pub fn plan(layers: &[Layer<'_>]) -> Result<Vec<Planned>> {
    let mut tree = Tree::new(layers);
    for number in 0..layers.len() {
        tree.stack(u16::try_from(number).expect("images have no more layers than that"))?;
    }
    tree.planned()
}

#[cfg(test)]
mod tests;
