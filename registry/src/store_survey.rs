//! What the page shows about the store, and what takes long to find out. All viewers share one
//! answer for a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::catalog::{BlobCount, Space, Thinned};
use crate::error::Result;

/// How long an answer is shown.
const LASTS: Duration = Duration::from_secs(60);

/// What takes the space, and what gc would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What takes the space.
    pub space: Space,
    /// What gc would remove; `None` if there are too many blobs to plan it for a page.
    pub gc: Option<GcPlan>,
}

/// The sums of what gc would remove and keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// The number of versions.
    pub versions: u64,
    /// Some of these versions: component and version.
    pub some_versions: Vec<(String, String)>,
    /// The removed blobs.
    pub blobs: BlobCount,
    /// The removed uploads.
    pub uploads: BlobCount,
    /// The removed states and entries of the audit trail.
    pub thinned: Thinned,
    /// The bytes that would be free.
    pub bytes: u64,
    /// The blobs that are kept, by reason.
    pub kept: Vec<(&'static str, BlobCount)>,
}

/// The last survey. A registry that has changed since then gets a new survey only after a minute,
/// except after a collection.
#[derive(Debug, Default)]
pub struct SurveyCache(Mutex<Option<(Instant, String, Arc<Survey>)>>);

impl SurveyCache {
    /// The last survey if it is not old and was made for the same `key`. Otherwise makes a new one.
    /// Other callers wait meanwhile, and get the same survey.
    pub async fn get(
        &self,
        key: String,
        make: impl Future<Output = Result<Survey>>,
    ) -> Result<Arc<Survey>> {
        let mut last = self.0.lock().await;
        if let Some((made, of, survey)) = &*last
            && made.elapsed() < LASTS
            && *of == key
        {
            return Ok(Arc::clone(survey));
        }
        let survey = Arc::new(make.await?);
        // The time counts from the end, so that slow surveys do not follow each other.
        *last = Some((Instant::now(), key, Arc::clone(&survey)));
        Ok(survey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn survey_is_shared_until_gc_has_run() {
        let cache = SurveyCache::default();
        let made = |bytes| async move {
            let gc = Some(GcPlan { bytes, ..GcPlan::default() });
            Ok(Survey { gc, ..Survey::default() })
        };
        let bytes = |survey: Arc<Survey>| survey.gc.as_ref().map(|gc| gc.bytes);
        assert_eq!(bytes(cache.get("a".to_owned(), made(1)).await.unwrap()), Some(1));
        assert_eq!(bytes(cache.get("a".to_owned(), made(2)).await.unwrap()), Some(1));
        assert_eq!(bytes(cache.get("b".to_owned(), made(3)).await.unwrap()), Some(3));
    }
}
