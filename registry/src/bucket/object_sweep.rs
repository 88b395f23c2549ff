//! Moves objects on to their next states, and deletes the objects that nothing needs. Each step may
//! be repeated, and a crash after any step is safe: an object is deleted only after the catalogue
//! has recorded that it will be, and its row is deleted last.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Bucket;
use crate::catalog::{ObjectRow, ObjectState, ObjectTimes};
use crate::error::Result;

/// How many objects are deleted at the same time.
const AT_ONCE: usize = 8;

/// The result of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweptObjects {
    /// The number of deleted objects.
    pub objects: u64,
    /// The size of these objects, in bytes.
    pub bytes: u64,
    /// Why some objects could not be deleted. The next sweep tries again.
    pub failed: Option<String>,
}

impl Bucket {
    /// Deletes the objects that nothing needs. Staged objects expire after `grace`. Fails, and
    /// changes nothing, if the bucket does not belong to the catalogue.
    pub async fn sweep(&self, grace: Duration) -> Result<SweptObjects> {
        if !self.removes() {
            return Ok(SweptObjects::default());
        }
        self.require_own_now().await?;
        let times = ObjectTimes { grace, linger: self.linger(), abandon: self.settings.abandon };
        self.catalog.advance_objects(times).await?;
        let rows = self.catalog.objects_in(&[ObjectState::Deleting]).await?;
        self.raise_marker(!rows.is_empty()).await?;
        let mut swept = SweptObjects::default();
        let (mut rows, mut running) = (rows.into_iter(), FuturesUnordered::new());
        loop {
            while running.len() < AT_ONCE
                && let Some(row) = rows.next()
            {
                running.push(self.delete(row));
            }
            match running.next().await {
                None => return Ok(swept),
                Some(Ok(bytes)) => {
                    swept.objects += 1;
                    swept.bytes += bytes;
                }
                Some(Err(err)) => swept.failed = Some(err.to_string()),
            }
        }
    }

    /// Deletes an object with the state `deleting`, and then its row. Returns the object's length.
    async fn delete(&self, row: ObjectRow) -> Result<u64> {
        if let Some(upload_id) = &row.upload_id {
            self.client.abort_parts(&row.place, upload_id).await?;
        }
        self.client.delete(&row.place).await?;
        self.catalog.forget_object(&row.place).await?;
        Ok(row.bytes)
    }
}
