//! Ends uploads. An upload with the bytes of a lost blob replaces the lost blob immediately.

use std::sync::Arc;

use deploy_store::Digest;
use jiff::Timestamp;

use crate::blocking::blocking;
use crate::error::Result;
use crate::registry::Registry;
use crate::uploads::upload::Upload;

impl Registry {
    /// Ends an upload, and stages it. If the upload has the bytes of a lost blob, the function also
    /// publishes the blob.
    pub async fn finish_upload(&self, upload: Upload) -> Result<Digest> {
        let digest = upload.finish().await?;
        if let Err(err) = self.take_back(digest).await {
            tracing::error!(%digest, "cannot restore a lost blob: {err}");
        }
        Ok(digest)
    }

    /// Publishes the staged copy of a blob if the catalogue needs the blob, and the blob is lost or
    /// in quarantine. Returns whether the blob was published.
    pub async fn take_back(&self, digest: Digest) -> Result<bool> {
        if self.blobs().contains(digest)? || !self.catalog.is_needed(digest).await? {
            return Ok(false);
        }
        let _binding = self.binding.lock().await;
        let blobs = Arc::clone(self.blobs());
        blocking(move || blobs.publish(digest)).await?;
        let bytes = self.blobs().size(digest)?.unwrap_or(0);
        self.catalog.mark_live(digest, bytes, Timestamp::now()).await?;
        tracing::info!(event = "blob_restored", %digest, bytes, "blob {digest} is restored");
        Ok(true)
    }
}
