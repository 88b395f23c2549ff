//! Makes the survey of the store. The page shows the survey in addition to the answer of `stat`.

use std::sync::Arc;

use crate::catalog::BlobCount;
use crate::error::Result;
use crate::registry::Registry;
use crate::store_survey::{GcPlan, Survey};
use crate::verbs::collect::{Collection, KeepReason};
use crate::verbs::stat::Stat;

/// Maximum number of blobs for which the page plans a collection. If there are more blobs,
/// operators can run `gc -n`.
const MOST_BLOBS: u64 = 20_000;
/// Maximum number of components that the survey lists.
const COMPONENTS: u32 = 12;
/// Maximum number of versions that the survey lists.
const VERSIONS: u32 = 40;
/// Maximum number of versions that a plan names.
const NAMED: usize = 3;

impl Registry {
    /// The survey of the store, which may be up to a minute old. `stat` is the current result of
    /// [`Registry::stat`].
    pub async fn survey(&self, stat: &Stat) -> Result<Arc<Survey>> {
        let last_gc = stat.gc.as_ref().map(|gc| gc.time.to_string()).unwrap_or_default();
        let make = async {
            let space = self.catalog.space(COMPONENTS, VERSIONS).await?;
            let is_small = stat.blobs.blobs <= MOST_BLOBS;
            let gc = if is_small { Some(plan(&self.would_collect().await?)) } else { None };
            Ok(Survey { space, gc })
        };
        self.surveys.get(last_gc, make).await
    }
}

/// The totals of a planned collection.
fn plan(collection: &Collection) -> GcPlan {
    let Collection { versions, blobs, uploads, thinned, kept, .. } = collection;
    let some = versions.iter().take(NAMED);
    let some = some.map(|(component, version)| (component.to_string(), version.to_string()));
    let bytes = blobs.iter().map(|blob| blob.bytes).sum();
    GcPlan {
        versions: versions.len() as u64,
        some_versions: some.collect(),
        blobs: BlobCount { blobs: blobs.len() as u64, bytes },
        uploads: BlobCount { blobs: uploads.files, bytes: uploads.bytes },
        thinned: *thinned,
        bytes: collection.bytes(),
        kept: kept.iter().map(|(why, count)| (word(*why), *count)).collect(),
    }
}

/// The reason as one word, as in JSON.
fn word(why: KeepReason) -> &'static str {
    match why {
        KeepReason::Current => "current",
        KeepReason::Rollback => "rollback",
        KeepReason::Pinned => "pinned",
        KeepReason::Version => "version",
        KeepReason::Transfer => "transfer",
        KeepReason::Young => "young",
    }
}
