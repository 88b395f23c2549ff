//! The room for uploads: the slots, the bytes of each key, and the free space of the disk. This
//! module checks every limit on uploads, for every protocol.

use std::sync::Arc;
use std::time::Duration;

use deploy_store::{Blobs, Digest, Size};

use super::announced::Announced;
use super::slots::{Sharing, SlotPool};
use super::upload_quota::UploadQuota;
use crate::blob_store::BlobStore;
use crate::blocking::blocking;
use crate::bucket::Bucket;
use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// Maximum number of uploads that all clients together may have open at the same time.
pub const MAX_UPLOADS: usize = 256;
/// How keys share the slots for uploads. A client that sends nothing for a minute may lose its
/// slot.
const SHARING: Sharing = Sharing {
    most: MAX_UPLOADS,
    share: MAX_UPLOADS / 4,
    reserve: MAX_UPLOADS / 4,
    silence: Duration::from_secs(60),
};
/// Maximum number of renewals of waiting uploads within one grace period.
const RENEWALS: u32 = 8;

/// The limits on uploads.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// Largest upload, in bytes.
    pub max_upload: u64,
    /// Maximum number of bytes that one key may have staged.
    pub max_staged: u64,
    /// Number of bytes that uploads leave free on the filesystem.
    pub min_free: u64,
    /// How long a complete upload may wait to be bound before it expires.
    pub grace: Duration,
}

/// The room for the uploads of one registry.
#[derive(Debug)]
pub struct UploadRoom {
    pub(super) blobs: Arc<Blobs>,
    /// With a bucket: the bucket, and the catalogue, whose rows count the staged bytes of each key.
    rows: Option<(Arc<Bucket>, Catalog)>,
    pub(super) slots: Arc<SlotPool>,
    pub(super) announced: Arc<Announced>,
    pub(super) quota: Arc<UploadQuota>,
    pub(super) limits: UploadLimits,
}

impl UploadRoom {
    /// A room without uploads.
    pub fn new(store: &BlobStore, limits: UploadLimits) -> Arc<Self> {
        Arc::new(Self {
            blobs: Arc::clone(store.local()),
            rows: match store {
                BlobStore::Directory(_) => None,
                BlobStore::Bucket(bucket, catalog) => Some((Arc::clone(bucket), catalog.clone())),
            },
            slots: SlotPool::new(SHARING),
            announced: Arc::default(),
            quota: UploadQuota::new(limits.max_staged),
            limits,
        })
    }

    /// The complete uploads that are not bound to a version yet.
    pub async fn waiting(&self) -> Result<Vec<Digest>> {
        match &self.rows {
            None => Ok(self.quota.waiting()),
            Some((_, catalog)) => catalog.staged_objects().await,
        }
    }

    /// The bytes of `key` that the catalogue counts as staged.
    pub(super) async fn counted_bytes(&self, key: &str) -> Result<u64> {
        match &self.rows {
            None => Ok(0),
            Some((_, catalog)) => catalog.uploaded_bytes(key).await,
        }
    }

    /// Whether the catalogue counts the staged bytes of each key.
    pub(super) fn counts_rows(&self) -> bool {
        self.rows.is_some()
    }

    /// Finds uploads that are no longer staged, and gives their bytes back to the quotas of their
    /// keys.
    pub fn release_gone(&self) {
        // An upload that cannot be examined still counts as staged.
        self.quota.release_gone(|digest| self.blobs.is_staged(digest).unwrap_or(true));
    }

    /// Renews the waiting uploads of `key`, so that they do not expire while more uploads of this
    /// key arrive. The import of an image with many layers needs this.
    pub async fn renew(&self, key: &str) {
        if let Some((_, catalog)) = &self.rows {
            if self.quota.is_renewal_due(key, self.limits.grace / RENEWALS)
                && let Err(err) = catalog.renew_uploads(key).await
            {
                tracing::warn!("uploads may expire early: {err}");
            }
            return;
        }
        let waiting = self.quota.to_renew(key, self.limits.grace / RENEWALS);
        if waiting.is_empty() {
            return;
        }
        let blobs = Arc::clone(&self.blobs);
        if let Err(err) = blocking(move || blobs.renew_staged(&waiting)).await {
            tracing::warn!("uploads may expire early: {err}");
        }
    }

    /// Fails with [`Error::OverLimit`] if one more upload of unknown size would leave too little
    /// free space.
    pub fn check_free(&self) -> Result<()> {
        self.check_space(0, self.announced.bytes())
    }

    /// Fails with [`Error::OverLimit`] if `bytes` more bytes would leave too little free space. The
    /// check also reserves the `announced` bytes that other clients have yet to send.
    pub(super) fn check_space(&self, bytes: u64, announced: u64) -> Result<()> {
        let floor = self.limits.min_free;
        let taken = bytes.saturating_add(announced);
        if let Some((bucket, _)) = &self.rows {
            bucket.make_room(taken.saturating_add(floor))?;
        }
        let free = self.blobs.free_bytes()?;
        if free.checked_sub(floor).is_some_and(|room| room >= taken) {
            return Ok(());
        }
        let (free, floor) = (Size(free), Size(floor));
        let others = match announced {
            0 => String::new(),
            announced => format!(", and other uploads still need {}", Size(announced)),
        };
        let this = match bytes {
            0 => String::new(),
            bytes => format!(": there is no room for {}", Size(bytes)),
        };
        Err(Error::OverLimit(format!(
            "the registry's disk has {free} free and must keep {floor} free (-min-free){others}{this}; gc may free some space"
        )))
    }
}
