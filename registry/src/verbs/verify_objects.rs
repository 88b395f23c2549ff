//! The part of `verify` for blobs in a bucket. It compares the list of the objects with the catalogue,
//! and reads objects. A damaged object is used no longer, and stays in the bucket until the same bytes
//! are uploaded again or nothing needs them.

use deploy_store::{Digest, Meter};

use super::verify_blobs::{Finding, Kind};
use crate::bucket::Reread;
use crate::catalog::ObjectState;
use crate::error::Result;
use crate::registry::Registry;

impl Registry {
    /// Looks for objects that are missing in the bucket, and removes objects that have no row and are
    /// older than a day.
    pub(super) async fn compare_objects(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let Some(bucket) = self.blobs().bucket() else { return Ok(()) };
        for row in self.catalog.objects_in(&[ObjectState::Damaged]).await? {
            if bucket.heal(&row).await? {
                let digest = row.digest;
                tracing::info!(event = "blob_restored", %digest, "blob {digest} is whole again");
                findings.retain(|finding| finding.path != format!("files/{digest}"));
            }
        }
        let compared = bucket.compare().await?;
        if compared.removed > 0 {
            let files = compared.removed;
            tracing::info!(
                event = "leftovers_removed",
                files,
                "objects without a row removed from the bucket: {files}"
            );
        }
        for row in compared.missing {
            self.catalog.mark_object_damaged(&row.place, row.digest).await?;
            let why =
                "is missing in the bucket, or has another length; upload the same bytes again";
            findings.push(self.finding_in(row.digest, Kind::Missing, why.to_owned()).await?);
        }
        for place in compared.foreign {
            let path = deploy_store::escape(&place);
            let why = "is not a blob; nothing uses it, and you may remove it".to_owned();
            findings.push(Finding { kind: Kind::Foreign, path, why, hits: Vec::new() });
        }
        Ok(())
    }

    /// Reads the object of a blob, and its copy in the cache.
    pub(super) async fn verify_object(
        &self,
        digest: Digest,
        rate: Option<u64>,
        meter: &Meter,
    ) -> Result<Option<Finding>> {
        let Some(bucket) = self.blobs().bucket() else { return Ok(None) };
        if bucket.check_copy(digest).await? {
            tracing::warn!(%digest, "the copy of {digest} in the cache was damaged; it is removed");
        }
        match bucket.reread(digest, rate, meter).await? {
            Reread::Sound | Reread::Gone => Ok(None),
            Reread::Damaged(why) => {
                let why = format!("{why}; upload the same bytes again");
                self.finding_in(digest, Kind::Damaged, why).await.map(Some)
            }
            Reread::Missing(why) => self.finding_in(digest, Kind::Missing, why).await.map(Some),
        }
    }
}
