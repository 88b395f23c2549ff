//! Whether files are here, and which one somebody means.

use std::collections::BTreeSet;
use std::sync::Arc;

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::{Hash, Refusal};
use deploy_wire::exit;

use crate::catalog::not_whole;
use crate::registry::{Registry, blocking};

impl Registry {
    /// Refuses versions whose files are not here, whatever the catalogue believes. That one is not
    /// known it says itself.
    pub async fn check_here(&self, layers: &[(ComponentName, VersionName)]) -> Result<(), Refusal> {
        for (component, version) in layers {
            if let Ok(layer) = self.catalog.version(component, version).await
                && !self.blobs().contains(layer.digest)?
            {
                return Err(Refusal::new(exit::CORRUPT, not_whole(&layer)));
            }
        }
        Ok(())
    }

    /// The file, stored or uploaded, that a hash or its first digits stand for; `None` where there
    /// is none.
    pub async fn find_hash(&self, hash: &Hash) -> Result<Option<Digest>, Refusal> {
        if let Some(digest) = hash.whole() {
            return Ok(Some(digest));
        }
        let blobs = Arc::clone(self.blobs());
        let stored = blocking(move || blobs.list()).await?;
        let referred = self.catalog.references().await?;
        let all = stored.iter().map(|blob| blob.digest).chain(referred.into_keys());
        let all = all.chain(self.staged.waiting());
        let found: BTreeSet<Digest> = all.filter(|digest| hash.is_of(*digest)).collect();
        match found.len() {
            0 | 1 => Ok(found.into_iter().next()),
            count => {
                let text = format!("hash {hash} stands for {count} files: give more of its digits");
                Err(Refusal::new(exit::CONFLICT, text))
            }
        }
    }
}
