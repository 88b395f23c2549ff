//! Whether files exist, and which file a hash or its first digits stand for.

use std::collections::BTreeSet;

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::Hash;

use crate::catalog::not_whole;
use crate::error::{Error, Result};
use crate::registry::Registry;

impl Registry {
    /// Fails if the file of a version is missing, whatever the catalogue says. The lookup ignores
    /// versions that do not exist: the catalogue reports them.
    pub async fn check_here(&self, layers: &[(ComponentName, VersionName)]) -> Result<()> {
        for (component, version) in layers {
            if let Some(layer) = self.catalog.find_version(component, version).await?
                && !self.blobs().contains(layer.digest)?
            {
                return Err(Error::Damaged(not_whole(&layer)));
            }
        }
        Ok(())
    }

    /// The stored or staged file that a hash, or its first digits, stand for, if there is such a
    /// file; [`Error::Conflict`] if there are several.
    pub async fn find_hash(&self, hash: &Hash) -> Result<Option<Digest>> {
        if let Some(digest) = hash.whole() {
            return Ok(Some(digest));
        }
        let stored = self.list_blobs().await?;
        let referred = self.catalog.references().await?;
        let all = stored.iter().map(|blob| blob.digest).chain(referred.into_keys());
        let all = all.chain(self.uploads.waiting());
        let found: BTreeSet<Digest> = all.filter(|digest| hash.is_of(*digest)).collect();
        match found.len() {
            0 | 1 => Ok(found.into_iter().next()),
            count => Err(Error::Conflict(format!(
                "hash {hash} stands for {count} files: give more of its digits"
            ))),
        }
    }
}
