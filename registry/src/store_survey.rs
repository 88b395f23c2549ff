//! Keeps the last survey of the store for the page. A survey takes a long time, so all viewers
//! share one survey for a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::catalog::{BlobCount, Space, Thinned};
use crate::error::Result;

/// How long viewers share one survey.
const LASTS: Duration = Duration::from_secs(60);

/// A survey of the store: the space that the blobs take, and the plan of gc.
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
    /// Some of these versions: component and version.
    pub some_versions: Vec<(String, String)>,
    /// The number and the bytes of the blobs that gc would remove.
    pub blobs: BlobCount,
    /// The number and the bytes of the uploads that gc would remove.
    pub uploads: BlobCount,
    /// The number of states, and of entries of the audit trail, that gc would remove.
    pub thinned: Thinned,
    /// The number of bytes that gc would free.
    pub bytes: u64,
    /// The number and the bytes of the blobs that gc would keep, for each reason.
    pub kept: Vec<(&'static str, BlobCount)>,
}

/// The time, the key and the result of the last survey. The key says when gc last ran. Within a
/// minute, a run of gc leads to a new survey, and other changes do not.
#[derive(Debug, Default)]
pub struct SurveyCache(Mutex<Option<(Instant, String, Arc<Survey>)>>);

impl SurveyCache {
    /// If the last survey is not too old and has the same `key`, returns this survey. Otherwise,
    /// makes a new survey. Other callers wait for the new survey and share it.
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
