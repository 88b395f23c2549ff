//! Looks up files: whether files exist, and which file a hash or its first digits stand for.

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::Hash;

use crate::catalog::not_whole;
use crate::error::{Error, Result};
use crate::registry::Registry;

impl Registry {
    /// Fails if the file of a version is missing, whatever the catalogue says. The lookup ignores
    /// versions that do not exist, because the catalogue reports these versions.
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

    /// The stored or staged file for a hash or for its first digits, if there is such a file. Fails
    /// with [`Error::Conflict`] if there are several such files.
    pub async fn find_hash(&self, hash: &Hash) -> Result<Option<Digest>> {
        if let Some(digest) = hash.whole() {
            return Ok(Some(digest));
        }
        let mut found = self.catalog.blobs_like(&hash.to_string()).await?;
        found.extend(self.uploads.waiting().into_iter().filter(|digest| hash.is_of(*digest)));
        match found.len() {
            0 | 1 => Ok(found.into_iter().next()),
            _ => Err(Error::Conflict(format!("hash {hash} is ambiguous: give more of its digits"))),
        }
    }
}
