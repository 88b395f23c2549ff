//! Planning: the tree of a configuration, from the indexes of its layers. The trees of
//! the last one are remembered, after each layer: for a bump only the layers above the
//! one that changed are merged again.

use crate::config::Configuration;
use crate::digest::Digest;
use crate::error::Result;
use crate::root::merge::add_layer_owned;
use crate::root::tree::Tree;
use crate::store::Store;

/// The layers planned last, lowest first, each with the tree up to it.
#[derive(Debug, Default)]
pub(in crate::store) struct Plan(Vec<(Digest, Tree)>);

impl Store {
    /// The tree of `configuration`, whose layers are extracted.
    pub(in crate::store) fn tree(&self, configuration: &Configuration) -> Result<Tree> {
        let layers: Vec<Digest> = configuration.layers().iter().map(|layer| layer.digest).collect();
        let mut plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shared = plan.0.iter().zip(&layers).take_while(|((one, _), other)| one == *other);
        let shared = shared.count();
        plan.0.truncate(shared);
        for &digest in &layers[shared..] {
            let mut tree = plan.0.last().map_or_else(Tree::default, |(_, tree)| tree.clone());
            add_layer_owned(&mut tree, self.index(digest)?, &self.placement.owners)?;
            plan.0.push((digest, tree));
        }
        Ok(plan.0.last().map_or_else(Tree::default, |(_, tree)| tree.clone()))
    }
}
