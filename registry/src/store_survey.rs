//! The survey of the store, which the page shows. A survey takes long, so all viewers share one
//! survey for a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::catalog::{BlobCount, Space, Thinned};
use crate::error::Result;

/// How long viewers share one survey.
const LASTS: Duration = Duration::from_secs(60);

/// The use of the space, and the plan of gc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The space that the blobs take.
    pub space: Space,
    /// The plan of gc; `None` if there are too many blobs to plan a collection for the page.
    pub gc: Option<GcPlan>,
}

/// The plan of gc: totals of the data that gc would remove and keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// The number of versions that gc would delete.
    pub versions: u64,
    /// Some of these versions, each with its component.
    pub some_versions: Vec<(String, String)>,
    /// The blobs that gc would remove.
    pub blobs: BlobCount,
    /// The uploads that gc would remove.
    pub uploads: BlobCount,
    /// The states and entries of the audit trail that gc would remove.
    pub thinned: Thinned,
    /// The number of bytes that gc would free.
    pub bytes: u64,
    /// The blobs that gc would keep, by reason.
    pub kept: Vec<(&'static str, BlobCount)>,
}

/// The last survey. Within a minute, only a collection leads to a new survey. Other changes of the
/// registry do not.
#[derive(Debug, Default)]
pub struct SurveyCache(Mutex<Option<(Instant, String, Arc<Survey>)>>);

impl SurveyCache {
    /// Returns the last survey if it is not too old and was made for the same `key`. Otherwise,
    /// makes a new survey. Other callers wait meanwhile, and get the same survey.
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
        // The minute begins at the end of the survey, so that slow surveys do not follow each other
        // without a pause.
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
