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
        if self.blobs().bucket().is_some() {
            return self.bind_objects(&digests, record).await;
        }
        let binding = self.binding.lock().await;
        let published = match self.publish(digests.clone(), copies).await {
            Ok(published) => published,
            Err(deploy_store::Error::NoSuchBlob(_)) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let recorded = match self.sizes(&digests).await {
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

    /// Like [`Registry::bind`], for blobs in a bucket. The transaction of `record` also makes the
    /// objects live, so this function sends no request to the bucket.
    async fn bind_objects<T>(
        &self,
        digests: &[Digest],
        record: impl AsyncFnOnce(Sizes) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut sizes = Sizes::new();
        for digest in digests {
            let Some(object) = self.catalog.object(*digest).await? else { return Ok(None) };
            sizes.insert(*digest, object.bytes);
        }
        record(sizes).await.map(Some)
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
                if !self.blobs().local().contains(digest)? {
                    lacking.push(digest);
                }
            }
            digests = lacking;
        }
        if digests.is_empty() {
            return Ok(digests);
        }
        let blobs = Arc::clone(self.blobs().local());
        blocking(move || blobs.publish_all(&digests)).await
    }

    async fn sizes(&self, digests: &[Digest]) -> Result<Sizes> {
        let found = self.blobs().sizes(digests.to_vec()).await?;
        let size = |digest| (digest, found.get(&digest).copied().unwrap_or(0));
        Ok(digests.iter().copied().map(size).collect())
    }

    async fn withdraw_unbound(&self, published: Vec<Digest>) -> Result<()> {
        let mut unbound = Vec::with_capacity(published.len());
        for digest in published {
            if !self.catalog.is_bound(digest).await? {
                unbound.push(digest);
            }
        }
        if !unbound.is_empty() {
            self.blobs().local().withdraw_all(&unbound)?;
        }
        Ok(())
    }
}
