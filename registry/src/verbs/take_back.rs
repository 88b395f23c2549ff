//! Ends uploads. An upload with the bytes of a lost blob replaces the lost blob immediately.

use std::sync::Arc;

use deploy_store::Digest;
use jiff::Timestamp;

use crate::blocking::blocking;
use crate::bucket::Complete;
use crate::error::Result;
use crate::registry::Registry;
use crate::uploads::upload::Upload;

impl Registry {
    /// Ends an upload, and stages it. If the upload has the bytes of a lost blob, the function also
    /// publishes the blob.
    pub async fn finish_upload(&self, upload: Upload) -> Result<Digest> {
        let uploader = upload.key().to_owned();
        let digest = upload.finish().await?;
        self.store_upload(digest, uploader).await?;
        if let Err(err) = self.take_back(digest).await {
            tracing::error!(%digest, "cannot restore a lost blob: {err}");
        }
        Ok(digest)
    }

    /// If the blobs are in a bucket, stores an upload that is complete on the local disk. Checks the
    /// archive first, so that the bind of a good archive need not read it. An archive that agents cannot
    /// unpack is stored, too; only its bind fails.
    async fn store_upload(&self, digest: Digest, uploader: String) -> Result<()> {
        let Some(bucket) = self.blobs().bucket() else { return Ok(()) };
        let known = self.catalog.object(digest).await?;
        let checked = match known {
            Some(object) if object.checked => true,
            _ => {
                let local = Arc::clone(bucket.local());
                let open = move || local.staged_reader(digest).or_else(|_| local.reader(digest));
                self.check_file(digest, blocking(open).await?).await.is_ok()
            }
        };
        let max_staged = self.settings.max_staged;
        bucket.store(Complete { digest, uploader, checked, max_staged }).await
    }

    /// Publishes the staged copy of a blob if the catalogue needs the blob, and the blob is lost or
    /// in quarantine. Returns whether the blob was published.
    pub async fn take_back(&self, digest: Digest) -> Result<bool> {
        if self.blobs().contains(digest).await? || !self.catalog.is_needed(digest).await? {
            return Ok(false);
        }
        let bytes = if self.blobs().bucket().is_some() {
            let Some(object) = self.catalog.object(digest).await? else { return Ok(false) };
            if !self.catalog.restore_object(digest, object.bytes).await? {
                return Ok(false);
            }
            object.bytes
        } else {
            let _binding = self.binding.lock().await;
            let blobs = Arc::clone(self.blobs().local());
            blocking(move || blobs.publish(digest)).await?;
            let bytes = self.blobs().size(digest).await?.unwrap_or(0);
            self.catalog.mark_live(digest, bytes, Timestamp::now()).await?;
            bytes
        };
        tracing::info!(event = "blob_restored", %digest, bytes, "blob {digest} is restored");
        Ok(true)
    }
}
