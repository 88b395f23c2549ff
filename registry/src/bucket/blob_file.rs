//! An open blob: a file in the directory, a copy in the cache, or a copy that is being made.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::object_fetch::Fetch;
use crate::error::Result;

/// An open blob.
#[derive(Debug)]
pub struct BlobFile {
    file: Arc<File>,
    /// The length of the blob, in bytes.
    pub bytes: u64,
    /// When the blob was last written, in seconds since 1970.
    pub modified: i64,
    fetch: Option<Arc<Fetch>>,
}

impl BlobFile {
    /// A complete file.
    pub(crate) fn whole(file: File) -> deploy_store::Result<Self> {
        let meta = file.metadata().map_err(|cause| deploy_store::Error::Io {
            action: "stat",
            path: "blob".into(),
            cause,
        })?;
        Ok(Self { file: Arc::new(file), bytes: meta.len(), modified: meta.mtime(), fetch: None })
    }

    /// A copy of a blob with `bytes` bytes that is being made.
    pub(super) fn growing(fetch: Arc<Fetch>, bytes: u64, modified: i64) -> Self {
        Self { file: Arc::clone(fetch.file()), bytes, modified, fetch: Some(fetch) }
    }

    /// The file, which may still grow.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Waits until the bytes up to `end` can be read.
    pub async fn wait_for(&self, end: u64) -> Result<()> {
        match &self.fetch {
            None => Ok(()),
            // The last byte can be read only after the whole copy was checked.
            Some(fetch) => fetch.wait_for(end.min(self.bytes)).await,
        }
    }

    /// Waits until the whole blob can be read.
    pub async fn complete(&self) -> Result<()> {
        match &self.fetch {
            None => Ok(()),
            Some(fetch) => fetch.complete().await,
        }
    }
}
