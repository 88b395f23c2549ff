//! Publishes blobs and records them in the catalogue. Each verb that makes a version from a blob
//! uses this module. The import of a Go registry binds blobs without this module.

use std::collections::BTreeMap;
use std::sync::Arc;

use deploy_store::Digest;

use crate::blocking::blocking;
use crate::error::Result;
use crate::registry::Registry;

/// The length of each blob, in bytes.
pub(super) type Sizes = BTreeMap<Digest, u64>;

/// What `bind` does with the staged copy of a blob that is already stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StagedCopies {
    /// The copy stays until it expires, because other clients may need it.
    Keep,
    /// The copy is removed, because only the import that sent the copy needed it.
    Remove,
}

impl Registry {
    /// Publishes the blobs `digests`, and then calls `record`, which adds their rows in one
    /// transaction. If `record` fails, the published blobs return to the staging area, so that
    /// another attempt needs no new upload. Returns `None`, and publishes nothing, if a blob is
    /// neither stored nor staged.
    pub(super) async fn bind<T>(
        &self,
        digests: Vec<Digest>,
        copies: StagedCopies,
        record: impl AsyncFnOnce(Sizes) -> Result<T>,
    ) -> Result<Option<T>> {
        let binding = self.binding.lock().await;
        let published = match self.publish(digests.clone(), copies).await {
            Ok(published) => published,
            Err(deploy_store::Error::NoSuchBlob(_)) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let recorded = match self.sizes(&digests) {
            Ok(sizes) => record(sizes).await,
            Err(err) => Err(err),
        };
        if recorded.is_err() {
            self.withdraw_unbound(published).await?;
        }
        drop(binding);
        self.uploads.release_gone();
        recorded.map(Some)
    }

    /// Publishes blobs, and returns the blobs that were not stored before.
    async fn publish(
        &self,
        mut digests: Vec<Digest>,
        copies: StagedCopies,
    ) -> deploy_store::Result<Vec<Digest>> {
        if copies == StagedCopies::Keep {
            let mut lacking = Vec::with_capacity(digests.len());
            for digest in digests {
                if !self.blobs().contains(digest)? {
                    lacking.push(digest);
                }
            }
            digests = lacking;
        }
        if digests.is_empty() {
            return Ok(digests);
        }
        let blobs = Arc::clone(self.blobs());
        blocking(move || blobs.publish_all(&digests)).await
    }

    fn sizes(&self, digests: &[Digest]) -> Result<Sizes> {
        let size = |&digest| Ok((digest, self.blobs().size(digest)?.unwrap_or(0)));
        digests.iter().map(size).collect()
    }

    async fn withdraw_unbound(&self, published: Vec<Digest>) -> Result<()> {
        let mut unbound = Vec::with_capacity(published.len());
        for digest in published {
            if !self.catalog.is_bound(digest).await? {
                unbound.push(digest);
            }
        }
        if !unbound.is_empty() {
            self.blobs().withdraw_all(&unbound)?;
        }
        Ok(())
    }
}
