//! Checks that the files of versions exist, and finds the file for a hash or for the first digits
//! of a hash.

use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::Hash;

use crate::catalog::not_whole;
use crate::error::{Error, Result};
use crate::registry::Registry;

impl Registry {
    /// Fails if the file of a version is missing, even if the catalogue lists the version. The
    /// check ignores versions that do not exist, because the catalogue reports such versions.
    pub async fn check_here(&self, layers: &[(ComponentName, VersionName)]) -> Result<()> {
        for (component, version) in layers {
            if let Some(layer) = self.catalog.find_version(component, version).await?
                && !self.blobs().contains(layer.digest).await?
            {
                return Err(Error::Damaged(not_whole(&layer)));
            }
        }
        Ok(())
    }

    /// The digest that `hash` stands for. A whole hash is returned without a lookup. For the first
    /// digits of a hash, the function looks for a file whose hash begins with these digits, among
    /// the stored files and the files staged since the registry's start. Returns `None` if there is
    /// no such file, and fails with [`Error::Conflict`] if there are several.
    pub async fn find_hash(&self, hash: &Hash) -> Result<Option<Digest>> {
        if let Some(digest) = hash.whole() {
            return Ok(Some(digest));
        }
        let mut found = self.catalog.blobs_like(&hash.to_string()).await?;
        let waiting = self.uploads.waiting().await?;
        found.extend(waiting.into_iter().filter(|digest| hash.is_of(*digest)));
        match found.len() {
            0 | 1 => Ok(found.into_iter().next()),
            _ => Err(Error::Conflict(format!("hash {hash} is ambiguous: give more of its digits"))),
        }
    }
}
