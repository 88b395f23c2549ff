//! What the registry does by itself: collects what nothing needs, lets uploads expire, and
//! slowly reads all blobs, so that damage shows before somebody needs what it hit.

use std::sync::Arc;
use std::time::Duration;

use deploy_store::Size;
use deploy_wire::command::Refusal;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::registry::Registry;
use crate::verbs::verify_blobs::{Scope, Verified};

const UPLOADS_EVERY: Duration = Duration::from_secs(10 * 60);
const COLLECT_EVERY: Duration = Duration::from_secs(60 * 60);
/// From the begin of one reading of all blobs to that of the next, at least.
const VERIFY_EVERY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// One part of that reading; after each it is noted how far it came.
const VERIFY_PART: Duration = Duration::from_secs(60);
/// After an error.
const VERIFY_AGAIN: Duration = Duration::from_secs(600);
/// Between two parts.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);

/// Collects until it is dropped.
pub async fn run(registry: Arc<Registry>) {
    let timer = |every: Duration| {
        let mut timer = interval_at(Instant::now() + every, every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut uploads, mut collect) = (timer(UPLOADS_EVERY), timer(COLLECT_EVERY));
    loop {
        tokio::select! {
            _ = uploads.tick() => {
                match registry.expire_uploads(registry.settings.grace).await {
                    Ok(swept) if swept.files == 0 => {}
                    Ok(swept) => {
                        let (files, bytes) = (swept.files, swept.bytes);
                        tracing::info!(event = "uploads_expired", files, bytes, "uploads expired: {files}");
                    }
                    Err(refusal) => failed("uploads", &refusal),
                }
            }
            _ = collect.tick() => match registry.collect(false).await {
                Ok(done) if done.versions.is_empty() && done.blobs.is_empty() => {}
                Ok(done) => {
                    let (versions, files, bytes) =
                        (done.versions.len(), done.blobs.len(), done.bytes());
                    tracing::info!(
                        event = "gc",
                        versions,
                        files,
                        bytes,
                        "gc: {versions} versions and {files} files removed, {}", Size(bytes)
                    );
                }
                Err(refusal) => failed("gc", &refusal),
            },
        }
    }
}

/// Reads all blobs again and again, `rate` bytes a second at most, until it is dropped.
pub async fn verify(registry: Arc<Registry>, rate: u64) {
    loop {
        let began = Instant::now();
        let part =
            Scope { budget: Some(VERIFY_PART), resume: true, rate: Some(rate), sample: None };
        let mut all = Verified::default();
        loop {
            match registry.verify(part).await {
                Ok(verified) => {
                    let (damaged, complete) = (verified.damaged(), verified.complete);
                    all.blobs += verified.blobs;
                    all.bytes += verified.bytes;
                    all.findings.extend(verified.findings);
                    // What shows without reading shows in every part.
                    all.findings.sort();
                    all.findings
                        .dedup_by(|one, other| (one.kind, &one.path) == (other.kind, &other.path));
                    if damaged > 0 {
                        tracing::error!(
                            event = "damage",
                            damaged,
                            "damage was found: {damaged}; see verify"
                        );
                    }
                    if complete {
                        if let Err(refusal) = registry.note_verified(&all, true).await {
                            failed("verify", &refusal);
                        }
                        break;
                    }
                }
                Err(refusal) => {
                    failed("verify", &refusal);
                    // Most likely something was in its way that goes by.
                    tokio::time::sleep(VERIFY_AGAIN).await;
                }
            }
            tokio::time::sleep(VERIFY_PAUSE).await;
        }
        tokio::time::sleep_until(began + VERIFY_EVERY).await;
    }
}

fn failed(what: &str, refusal: &Refusal) {
    tracing::error!(event = "background_failed", "{what} failed: {refusal}");
}
