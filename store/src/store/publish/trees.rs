//! Merges the tree of a configuration from the indexes of its layers. For the last configuration,
//! the store remembers the tree after each layer. If one layer changes, only this layer and the
//! higher layers are merged again.

use crate::config::Configuration;
use crate::digest::Digest;
use crate::error::Result;
use crate::root::merge::add_layer_owned;
use crate::root::tree::Tree;
use crate::store::Store;

/// The layers of the last merge, lowest first. The tree beside a layer is the merge of this layer
/// and all lower layers.
#[derive(Debug, Default)]
pub(in crate::store) struct Trees(Vec<(Digest, Tree)>);

impl Store {
    /// The tree of `configuration`, whose layers must be extracted.
    pub(in crate::store) fn tree(&self, configuration: &Configuration) -> Result<Tree> {
        let layers: Vec<Digest> = configuration.layers().iter().map(|layer| layer.digest).collect();
        let mut trees = self.trees.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shared = trees.0.iter().zip(&layers).take_while(|((one, _), other)| one == *other);
        let shared = shared.count();
        trees.0.truncate(shared);
        for &digest in &layers[shared..] {
            let mut tree = trees.0.last().map_or_else(Tree::default, |(_, tree)| tree.clone());
            add_layer_owned(&mut tree, self.index(digest)?, &self.placement.owners)?;
            trees.0.push((digest, tree));
        }
        Ok(trees.0.last().map_or_else(Tree::default, |(_, tree)| tree.clone()))
    }
}
