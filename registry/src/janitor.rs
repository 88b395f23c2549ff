//! Three timers, three calls: uploads that nobody bound, versions beyond the number
//! that is kept, blobs that nothing needs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deploy_wire::command::Refusal;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::registry::Registry;

/// How long an upload waits to be bound, and a blob without a reference to get one.
pub const GRACE: Duration = Duration::from_secs(30 * 60);
const UPLOADS_EVERY: Duration = Duration::from_secs(10 * 60);
const VERSIONS_EVERY: Duration = Duration::from_secs(60 * 60);
const BLOBS_EVERY: Duration = Duration::from_secs(3 * 60 * 60);

/// Works until it is dropped. Of each component `max_versions` are kept, or all with 0.
pub async fn run(registry: Arc<Registry>, max_versions: usize) {
    let timer = |every: Duration| {
        let mut timer = interval_at(Instant::now() + every, every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut uploads, mut versions, mut blobs) =
        (timer(UPLOADS_EVERY), timer(VERSIONS_EVERY), timer(BLOBS_EVERY));
    loop {
        tokio::select! {
            _ = uploads.tick() => {
                let swept = registry.expire_uploads(GRACE).await;
                report("uploads", swept.map(|swept| swept.files));
            }
            _ = versions.tick(), if max_versions > 0 => {
                let deleted = registry.catalog.delete_old_versions(max_versions).await;
                report("versions", deleted.map_err(Refusal::from));
            }
            _ = blobs.tick() => {
                let before = SystemTime::now().checked_sub(GRACE);
                let swept = registry.sweep_blobs(before.unwrap_or(SystemTime::UNIX_EPOCH)).await;
                report("blobs", swept.map(|swept| swept.files));
            }
        }
    }
}

fn report(what: &str, removed: Result<u64, Refusal>) {
    match removed {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "swept {what}"),
        Err(refusal) => tracing::error!("sweeping {what} failed: {refusal}"),
    }
}
