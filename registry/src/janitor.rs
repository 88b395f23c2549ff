//! Does the background work. The janitor runs gc and expires uploads. It also reads all blobs
//! slowly, to find damage before a client needs a damaged blob.

use std::sync::Arc;
use std::time::Duration;

use deploy_store::Size;
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::bucket::SweptObjects;
use crate::error::{Error, Result};
use crate::free_space::EVERY;
use crate::registry::Registry;
use crate::verbs::verify_blobs::{Scope, Verified};

const UPLOADS_EVERY: Duration = Duration::from_secs(10 * 60);
const COLLECT_EVERY: Duration = Duration::from_secs(60 * 60);
/// Minimum time between the starts of two readings of all blobs.
const VERIFY_EVERY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Duration of one part of a reading. After each part, the registry records the position.
const VERIFY_PART: Duration = Duration::from_secs(60);
/// The pause after an error.
const VERIFY_AGAIN: Duration = Duration::from_secs(600);
/// The duty of the weekly reading, if several registries share the catalogue.
const VERIFY_DUTY: &str = "verify";
/// The pause between two parts of a reading.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);

/// Runs gc and expires uploads, until the future is dropped.
pub async fn run(registry: Arc<Registry>) {
    let timer = |every: Duration| {
        let mut timer = interval_at(Instant::now() + every, every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    };
    let (mut uploads, mut collect) = (timer(UPLOADS_EVERY), timer(COLLECT_EVERY));
    let mut fleet = timer(COLLECT_EVERY);
    loop {
        tokio::select! {
            _ = uploads.tick() => {
                match registry.expire_uploads(registry.settings.grace).await {
                    Ok(swept) if swept.files == 0 => {}
                    Ok(swept) => {
                        let (files, bytes) = (swept.files, swept.bytes);
                        tracing::info!(event = "uploads_expired", files, bytes, "uploads expired: {files}");
                    }
                    Err(err) => failed("the expiry of uploads", &err),
                }
                sweep(&registry).await;
            }
            _ = fleet.tick() => {
                if let Err(err) = tidy_fleet(&registry).await {
                    failed("the maintenance of the fleet's records", &err);
                }
            }
            _ = collect.tick() => match registry.collect_changes().await {
                Ok(None) => {}
                Ok(Some(done)) if done.versions.is_empty() && done.blobs.is_empty() => {}
                Ok(Some(done)) => {
                    let (versions, files, bytes) =
                        (done.versions.len(), done.blobs.len(), done.bytes());
                    tracing::info!(
                        event = "gc",
                        versions,
                        files,
                        bytes,
                        "gc: {versions} versions deleted and {files} files removed, {}", Size(bytes)
                    );
                }
                Err(err) => failed("gc", &err),
            },
        }
    }
}

/// With a bucket, deletes the objects that have been condemned for long enough.
async fn sweep(registry: &Registry) {
    match registry.sweep_objects().await {
        Ok(SweptObjects { failed: Some(why), .. }) => {
            failed("deletion of objects", &Error::NoBucket(why));
        }
        Ok(SweptObjects { objects: 0, .. }) => {}
        Ok(SweptObjects { objects, bytes, .. }) => {
            let size = Size(bytes);
            tracing::info!(
                event = "objects_deleted",
                objects,
                bytes,
                "objects deleted: {objects}, {size}"
            );
        }
        Err(err) => failed("deletion of objects", &err),
    }
}

/// Removes the script outputs that no stored report refers to, and retires hosts that were not
/// connected and did not report within the time of `-retire-after`.
async fn tidy_fleet(registry: &Registry) -> Result<()> {
    registry.catalog.remove_unused_outputs().await?;
    let Some(age) = registry.settings.retire_after else { return Ok(()) };
    let now = Timestamp::now();
    let (Ok(before), Ok(half)) = (now.checked_sub(age), now.checked_sub(age / 2)) else {
        return Ok(());
    };
    // Connected agents report only when something changes. So the registry records from time to
    // time that their hosts are connected. Otherwise, these hosts would seem to be silent after a
    // restart of the registry.
    for host in registry.catalog.silent_hosts(half).await? {
        if registry.fleet.presence.has_host(&host, half) {
            registry.catalog.see_host(&host, now).await?;
        }
    }
    for host in registry.catalog.silent_hosts(before).await? {
        registry.catalog.retire_silent(&host, now).await?;
        tracing::info!(
            event = "host_retired",
            host,
            "host {host} is retired: it did not report and was not connected"
        );
    }
    Ok(())
}

/// Records the free space from time to time, until the future is dropped.
pub async fn sample_free_space(registry: Arc<Registry>) {
    loop {
        match registry.disk_bytes().await {
            Ok((free, _)) => registry.free_space.add((Timestamp::now(), free)),
            Err(err) => failed("the measurement of the free space", &err),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Reads all blobs again and again, at most `rate` bytes a second, until the future is dropped.
pub async fn verify(registry: Arc<Registry>, rate: u64) {
    loop {
        // One of the registries that share a bucket reads it.
        if !registry.catalog.takes_duty(VERIFY_DUTY).await.unwrap_or(false) {
            tokio::time::sleep(VERIFY_AGAIN).await;
            continue;
        }
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
                    // Some problems are found without reading blobs. Each part reports these
                    // problems again, so the registry removes duplicates.
                    all.findings.sort();
                    all.findings
                        .dedup_by(|one, other| (one.kind, &one.path) == (other.kind, &other.path));
                    if damaged > 0 {
                        tracing::error!(
                            event = "damage",
                            damaged,
                            "problems found: {damaged}; for the list, run verify"
                        );
                    }
                    if complete {
                        if let Err(err) = registry.note_verified(&all, true).await {
                            failed("verify", &err);
                        }
                        break;
                    }
                }
                Err(err) => {
                    failed("verify", &err);
                    // The cause of the error is probably temporary.
                    tokio::time::sleep(VERIFY_AGAIN).await;
                }
            }
            tokio::time::sleep(VERIFY_PAUSE).await;
        }
        tokio::time::sleep_until(began + VERIFY_EVERY).await;
    }
}

fn failed(what: &str, err: &Error) {
    tracing::error!(event = "background_failed", "{what} failed: {err}");
}
