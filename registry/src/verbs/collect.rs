//! The verb `gc`. It removes old versions, blobs without a reference, and uploads that nobody
//! bound. A pure function plans which blobs to remove. gc removes blobs in steps, and a stop after
//! any step is safe: see `catalog/retention.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use deploy_store::{BlobInfo, Digest, Meter, Swept, Unit};
use deploy_wire::command::Rolling;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::bucket::SweptObjects;
use crate::catalog::{BlobCount, Change, Need, Needs, ObjectState, Thinned, Versions};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::reserve;

/// The number of blobs in the first batch that gc removes. Between batches, clients may bind
/// versions.
const FIRST_BATCH: usize = 16;
/// Maximum number of blobs in one batch.
const LARGEST_BATCH: usize = 256;
/// How long a batch should take. During a batch, no client can bind a version.
const BATCH_TIME: Duration = Duration::from_millis(40);
/// The name of the catalogue's note about the last collection.
pub const NOTE: &str = "gc";

/// Why a blob is kept. If there are several reasons, the first reason in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepReason {
    /// A layer of the current state of a configuration.
    Current,
    /// A layer of a state that a rollback may restore.
    Rollback,
    /// The blob of a pinned version.
    Pinned,
    /// The blob of any other version.
    Version,
    /// A client is downloading the blob.
    Transfer,
    /// Nothing needs the blob, but it is within the grace period, or an importer has a lease on it.
    Young,
}

/// What a collection removes and keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Versions that are neither in use nor among the newest versions of their components.
    pub versions: Versions,
    /// Blobs that nothing needs.
    pub blobs: Vec<BlobInfo>,
    /// Uploads that nobody bound.
    pub uploads: Swept,
    /// States and entries of the audit trail that are too old.
    pub thinned: Thinned,
    /// For each reason, the number and the bytes of the blobs that are kept.
    pub kept: BTreeMap<KeepReason, BlobCount>,
    /// With a bucket: the objects that were condemned before this collection.
    pub lingering: Option<Lingering>,
    /// Why objects that should be deleted could not be deleted yet.
    pub unfinished: Option<String>,
}

/// Condemned objects, which are deleted later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lingering {
    /// The number and the size of these objects.
    pub count: BlobCount,
    /// How long an object is condemned before it is deleted.
    pub time: Duration,
}

/// The contents of the note about the last collection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noted {
    /// The time at which the collection ended.
    pub time: Timestamp,
    /// The number of deleted versions.
    pub versions: u64,
    /// The number of removed blobs, and the number of removed bytes, which includes uploads.
    #[serde(flatten)]
    pub blobs: BlobCount,
}

impl Collection {
    /// Bytes of the removed blobs and uploads.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.bytes).sum::<u64>() + self.uploads.bytes
    }
}

/// Plans which of `blobs` to remove, and finds the reason why each other blob is kept. A blob is
/// removed if nothing needs it, no client is downloading it, no importer has a lease on it, and it
/// was last written before `cutoff`.
pub fn plan(
    blobs: Vec<BlobInfo>,
    needs: &Needs,
    downloads: &BTreeSet<Digest>,
    leased: &BTreeSet<Digest>,
    cutoff: SystemTime,
) -> (Vec<BlobInfo>, BTreeMap<KeepReason, BlobCount>) {
    let mut kept: BTreeMap<KeepReason, BlobCount> = BTreeMap::new();
    let (mut unneeded, mut keep) = (Vec::new(), |why, bytes| {
        let count = kept.entry(why).or_default();
        count.blobs += 1;
        count.bytes += bytes;
    });
    for blob in blobs {
        match needs.get(&blob.digest) {
            Some(need) => keep(keep_reason(*need), blob.bytes),
            None if downloads.contains(&blob.digest) => keep(KeepReason::Transfer, blob.bytes),
            None if blob.modified >= cutoff || leased.contains(&blob.digest) => {
                keep(KeepReason::Young, blob.bytes);
            }
            None => unneeded.push(blob),
        }
    }
    unneeded.sort_by_key(|blob| blob.digest);
    (unneeded, kept)
}

/// The size of the next batch, if a batch of `size` blobs took the time `took`. The size adapts,
/// because the removal of one large file may take longer than the removal of many small files.
fn next_batch(size: usize, took: Duration) -> usize {
    if took > BATCH_TIME {
        (size / 2).max(1)
    } else if took < BATCH_TIME / 4 {
        (size * 2).min(LARGEST_BATCH)
    } else {
        size
    }
}

fn keep_reason(need: Need) -> KeepReason {
    match need {
        Need::Current => KeepReason::Current,
        Need::RollbackTarget => KeepReason::Rollback,
        Need::Pin => KeepReason::Pinned,
        Need::Version => KeepReason::Version,
    }
}

impl Registry {
    /// Plans a collection: returns what [`Registry::collect`] would remove now.
    pub async fn would_collect(&self) -> Result<Collection> {
        let cutoff = self.blobs().before(self.settings.grace).await?;
        let (versions, needs) = self.catalog.old_versions(self.settings.max_versions).await?;
        let all = self.blobs().list().await?;
        let lingering = self.lingering().await?;
        let leased = self.catalog.leased_since(timestamp(cutoff)).await?;
        let (blobs, kept) = plan(all, &needs, &self.downloads.blobs(), &leased, cutoff);
        let uploads = self.blobs().would_expire(self.settings.grace).await?;
        let thinned = match self.oldest_kept() {
            Some(oldest) => self.catalog.would_thin(oldest).await?,
            None => Thinned::default(),
        };
        Ok(Collection { versions, blobs, uploads, thinned, kept, lingering, unfinished: None })
    }

    /// Removes old versions, unneeded blobs, and uploads that nobody bound. During a collection,
    /// uploads, downloads and all other verbs continue. If the catalogue has no version at all, the
    /// function removes files only with `force`.
    pub async fn collect(&self, force: bool) -> Result<Collection> {
        self.collect_counted(force, &Meter::default()).await
    }

    /// Whether the next collection in the background will read files, because something may have
    /// changed since the last collection.
    pub async fn is_collection_due(&self) -> Result<bool> {
        Ok(self.due_after(self.catalog.last_change().await?))
    }

    fn due_after(&self, change: u64) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        // With `-keep-history`, states become too old even if nothing changes.
        self.settings.keep_history.is_some() || *settled != Some(change)
    }

    /// Runs a collection if anything may have changed since the last collection. Otherwise, the
    /// function returns `None`, and reads no files.
    pub async fn collect_changes(&self) -> Result<Option<Collection>> {
        let change = self.catalog.last_change().await?;
        if !self.due_after(change) {
            return Ok(None);
        }
        let done = self.collect(false).await?;
        let later = [KeepReason::Transfer, KeepReason::Young];
        let is_whole = !later.iter().any(|reason| done.kept.contains_key(reason));
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        *settled = is_whole.then_some(change);
        Ok(Some(done))
    }

    /// Like [`Registry::collect`]; `meter` counts the removed files.
    pub async fn collect_counted(&self, force: bool, meter: &Meter) -> Result<Collection> {
        let _one_at_a_time = self.collecting.lock().await;
        // On a full disk, the catalogue needs the reserved space to record the removals.
        reserve::release(&self.top, self.blobs().local())?;
        let cutoff = self.blobs().before(self.settings.grace).await?;
        let lingering = self.lingering().await?;
        let all = self.check_catalogue(force).await?;
        let versions = self.catalog.delete_old_versions(self.settings.max_versions).await?;
        let needs = self.catalog.needs().await?;
        let leased = self.catalog.leased_since(timestamp(cutoff)).await?;
        let downloads = self.downloads.blobs();
        let (unneeded, mut kept) = plan(all, &needs, &downloads, &leased, cutoff);
        let mut blobs = Vec::with_capacity(unneeded.len());
        meter.begin("removed", Unit::Items("files"), unneeded.len() as u64);
        let (mut rest, mut size) = (&unneeded[..], FIRST_BATCH);
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let began = Instant::now();
            let removed = self.remove_unneeded(batch, timestamp(cutoff)).await?;
            for blob in batch.iter().filter(|blob| !removed.contains(blob)) {
                // Since the plan was made, a client has bound the blob or begun to download it, or
                // an importer has asked for it.
                let count = kept.entry(KeepReason::Version).or_default();
                count.blobs += 1;
                count.bytes += blob.bytes;
            }
            blobs.extend(removed);
            meter.add(batch.len() as u64);
            size = next_batch(size, began.elapsed());
        }
        meter.end();
        let uploads = self.expire_uploads(self.settings.grace).await?;
        let thinned = self.thin().await?;
        let unfinished = self.sweep_objects().await?.failed;
        let done = Collection { versions, blobs, uploads, thinned, kept, lingering, unfinished };
        let count = BlobCount { blobs: done.blobs.len() as u64, bytes: done.bytes() };
        let noted =
            Noted { time: Timestamp::now(), versions: done.versions.len() as u64, blobs: count };
        self.catalog.set_note(NOTE, &noted).await?;
        reserve::make(&self.top, self.blobs().local());
        Ok(done)
    }

    /// Removes the histories of deleted configurations. Also removes states and audit entries that
    /// are older than `-keep-history` allows. The audit trail gets an entry with the numbers of
    /// removed states and entries.
    async fn thin(&self) -> Result<Thinned> {
        self.catalog.remove_histories().await?;
        let Some(oldest) = self.oldest_kept() else { return Ok(Thinned::default()) };
        let thinned = self.catalog.thin(oldest).await?;
        let Thinned { states, audit } = thinned;
        if states + audit > 0 {
            let command = format!(
                "gc: {states} states and {audit} entries of the audit trail removed, all from \
                 before {oldest:.0} (-keep-history)"
            );
            tracing::info!(event = "history_removed", states, audit, "{command}");
            let own = || "deploy-registry".to_owned();
            let now = Timestamp::now();
            let address = String::new();
            let change = Change {
                user: own(),
                key: own(),
                address,
                command,
                now,
                overrides: false,
                rolling: Rolling::default(),
            };
            self.catalog.audit_change(&change, 0, "").await?;
        }
        Ok(thinned)
    }

    /// The time before which states and entries of the audit trail are too old; `None` without
    /// `-keep-history`.
    fn oldest_kept(&self) -> Option<Timestamp> {
        let age = self.settings.keep_history?;
        Some(Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN))
    }

    /// Lists the blobs. Fails if the catalogue is damaged, or does not seem to belong to these
    /// blobs.
    async fn check_catalogue(&self, force: bool) -> Result<Vec<BlobInfo>> {
        if self.blobs().bucket().is_some_and(|bucket| !bucket.removes()) {
            return Err(Error::Conflict(
                "the registry was started with -accept-older-catalogue, so nothing is removed; \
                 start it without this flag"
                    .to_owned(),
            ));
        }
        if let Some(why) = self.catalog.check_kept().await?.first() {
            return Err(Error::Damaged(format!(
                "the catalogue is damaged, so nothing is removed: {why}; see verify"
            )));
        }
        // This call reads the whole catalogue, so a read error stops gc before it removes anything.
        let needs = self.catalog.needs().await?;
        let all = self.blobs().list().await?;
        if !force && !all.is_empty() && needs.is_empty() {
            return Err(Error::Conflict(format!(
                "the catalogue has no versions, but the directory has {} files: is this the right \
                 catalogue? use -force to remove the files",
                all.len()
            )));
        }
        Ok(all)
    }

    /// Removes each blob of `blobs` that nothing needs, that no client is downloading, and that has
    /// had no lease since `leased`. Files are removed first, and rows last. During this call, no
    /// version can be bound. Returns the removed blobs.
    async fn remove_unneeded(
        &self,
        blobs: &[BlobInfo],
        leased: Timestamp,
    ) -> Result<Vec<BlobInfo>> {
        let _binding = self.binding.lock().await;
        let downloads = self.downloads.blobs();
        let idle: Vec<BlobInfo> =
            blobs.iter().filter(|blob| !downloads.contains(&blob.digest)).cloned().collect();
        if self.blobs().bucket().is_some() {
            let cutoff = timestamp(self.blobs().before(self.settings.grace).await?);
            return self.catalog.condemn_objects(&idle, leased, cutoff).await;
        }
        let condemned = self.catalog.condemn(&idle, leased, Timestamp::now()).await?;
        self.remove_condemned(condemned.iter().map(|blob| blob.digest).collect()).await?;
        Ok(condemned)
    }

    /// Removes the files of condemned blobs, and then the rows of these blobs.
    async fn remove_condemned(&self, digests: Vec<Digest>) -> Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        let (store, files) = (Arc::clone(self.blobs().local()), digests.clone());
        blocking(move || store.remove_all(files)).await?;
        self.catalog.forget(digests).await
    }

    /// With a bucket, deletes the objects that have been condemned for long enough. If the bucket does
    /// not answer, the next call tries again.
    pub async fn sweep_objects(&self) -> Result<SweptObjects> {
        let Some(bucket) = self.blobs().bucket() else { return Ok(SweptObjects::default()) };
        match bucket.sweep(self.settings.grace).await {
            Err(Error::NoBucket(why)) => {
                Ok(SweptObjects { failed: Some(why), ..SweptObjects::default() })
            }
            swept => swept,
        }
    }

    /// With a bucket, counts the objects that were condemned before and are not deleted yet.
    async fn lingering(&self) -> Result<Option<Lingering>> {
        let Some(bucket) = self.blobs().bucket() else { return Ok(None) };
        let counts = self.catalog.object_counts().await?;
        let mut count = BlobCount::default();
        for state in [ObjectState::Condemned, ObjectState::Deleting] {
            let one = counts.get(&state).copied().unwrap_or_default();
            count.blobs += one.blobs;
            count.bytes += one.bytes;
        }
        Ok(Some(Lingering { count, time: bucket.linger() }))
    }

    /// Removes uploads that have waited for longer than `age` to be bound.
    pub async fn expire_uploads(&self, age: Duration) -> Result<Swept> {
        let _binding = self.binding.lock().await;
        let swept = self.blobs().expire(age).await?;
        self.uploads.release_gone();
        Ok(swept)
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn batch_size_depends_on_the_time_of_the_last_batch() {
        let milliseconds = Duration::from_millis;
        assert_eq!(next_batch(16, milliseconds(3)), 32);
        assert_eq!(next_batch(LARGEST_BATCH, milliseconds(3)), LARGEST_BATCH);
        assert_eq!(next_batch(32, milliseconds(20)), 32);
        assert_eq!(next_batch(32, milliseconds(200)), 16);
        assert_eq!(next_batch(1, milliseconds(900)), 1);
    }

    #[test]
    fn first_reason_counts_and_old_unneeded_blobs_are_removed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let blob = |name: &str, bytes, seconds| BlobInfo {
            digest: Digest::of(name.as_bytes()),
            bytes,
            modified: at(seconds),
        };
        let digest = |name: &str| Digest::of(name.as_bytes());
        let blobs = vec![
            blob("shared", 1, 0),
            blob("pinned", 2, 0),
            blob("read", 4, 0),
            blob("young", 8, 10),
            blob("leased", 16, 0),
            blob("old", 32, 9),
        ];
        let needs = Needs::from([(digest("shared"), Need::Current), (digest("pinned"), Need::Pin)]);
        let downloads = BTreeSet::from([digest("read"), digest("shared")]);
        let leased = BTreeSet::from([digest("leased")]);
        let (unneeded, kept) = plan(blobs, &needs, &downloads, &leased, at(10));
        assert_eq!(unneeded.iter().map(|blob| blob.bytes).collect::<Vec<_>>(), [32]);
        let kept: Vec<_> = kept.into_iter().map(|(why, count)| (why, count.bytes)).collect();
        let expected = [
            (KeepReason::Current, 1),
            (KeepReason::Pinned, 2),
            (KeepReason::Transfer, 4),
            (KeepReason::Young, 24),
        ];
        assert_eq!(kept, expected);
    }
}
