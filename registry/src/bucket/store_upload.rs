//! Stores a complete upload in the bucket. The upload is acknowledged only after its object is
//! complete, and its row says that it is staged.

use std::fs::File;
use std::sync::Arc;

use deploy_store::Digest;

use super::send_object::{given_up, send};
use super::{Bucket, object_place};
use crate::blocking::blocking;
use crate::catalog::{NewObject, ObjectRow};
use crate::error::{Error, Result};

/// How many times the storing begins again, if other tasks change the objects of the blob.
const TRIES: u32 = 5;

/// A complete upload on the local disk.
#[derive(Debug, Clone)]
pub struct Complete {
    /// The digest.
    pub digest: Digest,
    /// The key of the ssh client.
    pub uploader: String,
    /// Whether agents can unpack the archive.
    pub checked: bool,
    /// Maximum number of bytes that the client may have staged.
    pub max_staged: u64,
}

impl Bucket {
    /// Stores an upload that is complete on the local disk. Continues if the caller stops waiting,
    /// so that no row stays in the state `writing`. The file becomes a copy in the cache; if the
    /// upload cannot be stored, the file is removed.
    pub async fn store(self: &Arc<Self>, upload: Complete) -> Result<()> {
        let bucket = Arc::clone(self);
        let storing = tokio::spawn(async move {
            let digest = upload.digest;
            let stored = bucket.try_store(&upload).await;
            let (kept, bytes) = (Arc::clone(&bucket), stored.as_ref().ok().copied());
            let moved = blocking(move || match bytes {
                Some(bytes) => kept.cache.add(digest, bytes),
                None => kept.local.unstage(digest),
            });
            if let Err(err) = moved.await {
                tracing::warn!(%digest, "cannot tidy up after an upload: {err}");
            }
            stored.map(drop).map_err(not_stored)
        });
        storing.await.unwrap_or_else(|err| Err(Error::Failed(format!("internal error: {err}"))))
    }

    /// Stores an upload, and returns its length.
    async fn try_store(&self, upload: &Complete) -> Result<u64> {
        let Ok(_permit) = self.sending.acquire().await else { return Err(given_up()) };
        self.require_own().await?;
        let (local, digest) = (Arc::clone(&self.local), upload.digest);
        let (file, bytes) = blocking(move || {
            // Another upload of the same bytes may just have become a copy.
            let file = local.staged_reader(digest).or_else(|_| local.reader(digest))?;
            let bytes = file.metadata().map(|meta| meta.len());
            let path = || "upload".into();
            let bytes = bytes.map_err(|cause| deploy_store::Error::Io {
                action: "stat",
                path: path(),
                cause,
            })?;
            Ok((file, bytes))
        })
        .await?;
        self.store_file(upload, file, bytes).await?;
        Ok(bytes)
    }

    /// Stores the bytes of `file`, which has `bytes` bytes. If they are in the bucket already, sends
    /// nothing.
    pub(super) async fn store_file(&self, upload: &Complete, file: File, bytes: u64) -> Result<()> {
        let digest = upload.digest;
        for _ in 0..TRIES {
            let place = object_place::new(digest)?;
            let new = NewObject {
                place: &place,
                digest,
                bytes,
                uploader: &upload.uploader,
                checked: upload.checked,
            };
            let Some(existing) = self.catalog.begin_object(new, upload.max_staged).await? else {
                let sent = send(&self.client, &self.catalog, &place, (digest, bytes), file).await;
                return self.end(&place, sent).await;
            };
            if self.reuse(&existing, &upload.uploader, bytes).await? {
                return Ok(());
            }
        }
        Err(Error::Busy(format!("the objects of {digest} changed during each attempt; try again")))
    }

    /// Acknowledges an upload whose bytes are in the bucket already. Returns `false` if the object
    /// cannot be used.
    async fn reuse(&self, existing: &ObjectRow, uploader: &str, bytes: u64) -> Result<bool> {
        if self.client.length(&existing.place).await? == Some(bytes) {
            return self.catalog.renew_object(&existing.place, uploader).await;
        }
        // A server without the bucket has no object either.
        self.require_own_now().await?;
        tracing::error!(
            event = "blob_damaged",
            digest = %existing.digest,
            "the object {} is missing in the bucket, or has another length",
            existing.place
        );
        self.catalog.mark_object_damaged(&existing.place, existing.digest).await?;
        Ok(false)
    }

    /// Ends the writing of an object, or gives the object up.
    async fn end(&self, place: &str, sent: Result<()>) -> Result<()> {
        if let Err(err) = sent {
            if let Err(err) = self.catalog.give_up_object(place).await {
                tracing::warn!("the next start gives up the object {place}: {err}");
            }
            return Err(err);
        }
        if self.catalog.end_object(place).await? { Ok(()) } else { Err(given_up()) }
    }
}

fn not_stored(err: Error) -> Error {
    match err {
        Error::NoBucket(why) => Error::NoBucket(format!(
            "{why}; the upload is not stored, so send it again when the bucket answers"
        )),
        other => other,
    }
}
