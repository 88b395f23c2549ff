//! Sends the blobs of a registry that migrates to the bucket, and copies them from the bucket, with
//! the code that uploads and downloads use. Unlike uploads and downloads, this code does not move or
//! remove any local file of another registry, and does not use the cache.

use std::fs::File;
use std::sync::Arc;

use deploy_store::Blobs;

use super::object_fetch::{Failed, Fetch};
use super::send_object::given_up;
use super::{Bucket, Complete};
use crate::blocking::blocking;
use crate::catalog::ObjectRow;
use crate::error::{Error, Result};

impl Bucket {
    /// Sends a blob with `bytes` bytes, whose object is then staged. The bytes are hashed while they
    /// are sent. If an object with these bytes and this length exists, sends nothing.
    pub(crate) async fn send_blob(&self, blob: &Complete, bytes: u64, file: File) -> Result<()> {
        let Ok(_permit) = self.sending.acquire().await else { return Err(given_up()) };
        self.require_own().await?;
        self.store_file(blob, file, bytes).await
    }

    /// Copies an object to a staged file of `into`, and checks its bytes.
    pub(crate) async fn copy_object(&self, row: &ObjectRow, into: &Arc<Blobs>) -> Result<()> {
        let Ok(_permit) = self.fetching.acquire().await else { return Err(given_up()) };
        let blobs = Arc::clone(into);
        let writer = blocking(move || blobs.stage()).await?;
        let fetch = Fetch::new(writer.sync_handle()?);
        match fetch.copy(&self.client, row, writer).await {
            Ok(()) => Ok(()),
            Err(Failed::Damaged(why)) => Err(Error::Damaged(why)),
            Err(Failed::Other(err)) => Err(err),
        }
    }
}
