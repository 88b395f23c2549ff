//! The verb `addver`, which makes a version from a staged or stored blob.

use std::fs::File;

use deploy_store::{ComponentName, Digest, VersionName, check_archive};

use super::bind::{Sizes, StagedCopies};
use crate::blocking::blocking;
use crate::catalog::{Change, not_uploaded};
use crate::error::{Error, Result};
use crate::registry::Registry;

impl Registry {
    /// Binds a staged or stored blob to a new version. `addver` checks the names and the archive
    /// first, then publishes the blob, and adds the row last.
    pub async fn add_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        change: &Change,
    ) -> Result<()> {
        if let Err(err) = self.catalog.check_new_version(component, version).await {
            // If the file of a bound blob is lost, the error must tell the client to send the bytes
            // again.
            if !self.blobs().contains(digest).await?
                && self.catalog.is_bound(digest).await?
                && !self.blobs().is_staged(digest).await?
            {
                return Err(not_uploaded());
            }
            return Err(err);
        }
        if !self.blobs().contains(digest).await? {
            self.check_staged(digest).await?;
        }
        self.bind_version(component, version, digest, change).await
    }

    /// Binds a blob whose archive has already been checked.
    pub(super) async fn bind_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        change: &Change,
    ) -> Result<()> {
        let record = async |sizes: Sizes| {
            let bytes = sizes.get(&digest).copied().unwrap_or(0);
            self.catalog.add_version(component, version, digest, bytes, change).await
        };
        let bound = self.bind(vec![digest], StagedCopies::Keep, record).await?;
        bound.ok_or_else(not_uploaded)
    }

    /// Fails if the archive is neither staged nor stored, or if agents cannot unpack it. A stored
    /// archive needs no second check.
    pub(super) async fn check_staged(&self, digest: Digest) -> Result<()> {
        let staged = match self.blobs().unchecked_file(digest).await {
            // Another command has published the blob since the caller looked for it.
            Err(Error::NotFound(_)) if self.blobs().contains(digest).await? => return Ok(()),
            Err(Error::NotFound(_)) => return Err(not_uploaded()),
            staged => staged?,
        };
        let Some(staged) = staged else { return Ok(()) };
        self.check_file(digest, staged).await?;
        if self.blobs().bucket().is_some() {
            self.catalog.mark_checked(digest).await?;
        }
        Ok(())
    }

    /// Fails if agents cannot unpack the archive in `file`.
    pub(super) async fn check_file(&self, digest: Digest, file: File) -> Result<()> {
        let permit = self.checks.acquire().await;
        let limits = self.settings.limits;
        let checked = blocking(move || check_archive(file, limits)).await;
        drop(permit);
        checked.map(drop).map_err(|cause| Error::BadArchive { digest, cause })
    }
}
