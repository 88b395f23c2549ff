//! Collecting what nothing needs: versions beyond those that are kept, blobs that nothing
//! refers to, uploads that nobody bound. What goes is found by a pure plan; a blob goes in
//! steps of which each may be the last, see `catalog/blobs.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::disk::Dir;
use deploy_store::{BlobInfo, Blobs, Digest, Meter, Swept, Unit};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{Reference, References, Versions};
use crate::registry::{Registry, blocking};

/// Blobs that are condemned and removed at a time: in between, versions are bound.
const BATCH: usize = 256;
/// Bytes of the file that a full disk takes, for the catalogue to be written to.
const RESERVE: usize = 1 << 20;
const RESERVE_NAME: &CStr = c"reserve";
/// Under which the last run is noted.
pub const NOTE: &str = "gc";

/// Why a blob is kept; the first reason of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A layer of the current state of a configuration.
    Current,
    /// A layer of a state that a rollback may go back to.
    Rollback,
    /// Of a pinned version.
    Pinned,
    /// Of another version.
    Version,
    /// Is being downloaded.
    Transfer,
    /// Nothing needs it, but it is not old enough, or an importer may count on it.
    Young,
}

/// Blobs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    #[serde(rename = "files")]
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a collection removes, or has removed, and what it leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Versions beyond those that are kept.
    pub versions: Versions,
    /// Blobs that nothing needs.
    pub blobs: Vec<BlobInfo>,
    /// Uploads that nobody bound.
    pub uploads: Swept,
    /// The blobs that stay, by the reason.
    pub kept: BTreeMap<Why, Count>,
}

/// When something was collected last, and how much.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noted {
    /// When.
    pub time: Timestamp,
    /// Versions that went.
    pub versions: u64,
    /// Blobs that went, and their bytes.
    #[serde(flatten)]
    pub blobs: Count,
}

impl Collection {
    /// Bytes of the blobs and uploads that go.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.bytes).sum::<u64>() + self.uploads.bytes
    }
}

/// Which of `blobs` go and why the others stay. One that nothing needs goes if it was last
/// written before `before` and is none of `asked`, which somebody was told of since.
pub fn plan(
    blobs: Vec<BlobInfo>,
    references: &References,
    transfers: &BTreeSet<Digest>,
    asked: &BTreeSet<Digest>,
    before: SystemTime,
) -> (Vec<BlobInfo>, BTreeMap<Why, Count>) {
    let mut kept: BTreeMap<Why, Count> = BTreeMap::new();
    let (mut go, mut keep) = (Vec::new(), |why, bytes| {
        let count = kept.entry(why).or_default();
        count.blobs += 1;
        count.bytes += bytes;
    });
    for blob in blobs {
        match references.get(&blob.digest).and_then(|reasons| reasons.first()) {
            Some(reason) => keep(why(reason), blob.bytes),
            None if transfers.contains(&blob.digest) => keep(Why::Transfer, blob.bytes),
            None if blob.modified >= before || asked.contains(&blob.digest) => {
                keep(Why::Young, blob.bytes);
            }
            None => go.push(blob),
        }
    }
    go.sort_by_key(|blob| blob.digest);
    (go, kept)
}

fn why(reference: &Reference) -> Why {
    match reference {
        Reference::Current { .. } => Why::Current,
        Reference::Target { .. } => Why::Rollback,
        Reference::Pin { .. } => Why::Pinned,
        Reference::Version { .. } => Why::Version,
    }
}

impl Registry {
    /// What [`Registry::collect`] would remove if nothing else happened.
    pub async fn would_collect(&self) -> Result<Collection, Refusal> {
        let before = self.settings.grown_up();
        let (versions, references) = self.catalog.old_versions(self.settings.max_versions).await?;
        let all = self.list_blobs().await?;
        let asked = self.catalog.asked_since(timestamp(before)).await?;
        let (blobs, kept) = plan(all, &references, &self.transfers.blobs(), &asked, before);
        let store = Arc::clone(self.blobs());
        let uploads = blocking(move || store.would_expire(before)).await?;
        Ok(Collection { versions, blobs, uploads, kept })
    }

    /// Removes old versions, blobs that nothing needs and uploads that nobody bound. Goes
    /// on beside uploads, downloads and all other verbs. Where no version is known at all,
    /// `force` must say that this is as it should be.
    pub async fn collect(&self, force: bool) -> Result<Collection, Refusal> {
        self.collect_counted(force, &Meter::default()).await
    }

    /// As [`Registry::collect`]; `meter` counts the files that go.
    pub async fn collect_counted(&self, force: bool, meter: &Meter) -> Result<Collection, Refusal> {
        let _one_at_a_time = self.collecting.lock().await;
        self.use_reserve()?;
        if let Some(why) = self.catalog.check().await?.first() {
            let text =
                format!("the catalogue is damaged, so nothing is removed: {why}; see verify");
            return Err(Refusal::new(exit::CORRUPT, text));
        }
        let before = self.settings.grown_up();
        let all = self.list_blobs().await?;
        if !force && !all.is_empty() && self.catalog.references().await?.is_empty() {
            let text = format!(
                "no version of any component is known, but {} files are here: is this the right \
                 catalogue? if they are to go, use -force",
                all.len()
            );
            return Err(Refusal::new(exit::CONFLICT, text));
        }
        let (versions, references) =
            self.catalog.delete_old_versions(self.settings.max_versions).await?;
        let asked = self.catalog.asked_since(timestamp(before)).await?;
        let transfers = self.transfers.blobs();
        let (unneeded, mut kept) = plan(all, &references, &transfers, &asked, before);
        let mut blobs = Vec::with_capacity(unneeded.len());
        meter.begin("removed", Unit::Items("files"), unneeded.len() as u64);
        for batch in unneeded.chunks(BATCH) {
            let gone = self.remove_unneeded(batch, timestamp(before)).await?;
            for blob in batch.iter().filter(|blob| !gone.contains(blob)) {
                // Bound, or asked for, since it was looked at.
                let count = kept.entry(Why::Version).or_default();
                count.blobs += 1;
                count.bytes += blob.bytes;
            }
            blobs.extend(gone);
            meter.add(batch.len() as u64);
        }
        meter.end();
        let uploads = self.expire_uploads(self.settings.grace).await?;
        let done = Collection { versions, blobs, uploads, kept };
        let count = Count { blobs: done.blobs.len() as u64, bytes: done.bytes() };
        let noted =
            Noted { time: Timestamp::now(), versions: done.versions.len() as u64, blobs: count };
        self.catalog.set_note(NOTE, &noted).await?;
        self.make_reserve();
        Ok(done)
    }

    /// Gives up what was kept for a disk that is full: the catalogue needs some room to say
    /// what goes.
    fn use_reserve(&self) -> Result<(), Refusal> {
        give_up_reserve(&self.top, self.blobs())?;
        Ok(())
    }

    /// Takes some room for the time when there is none.
    pub(crate) fn make_reserve(&self) {
        let made = || -> deploy_store::Result<()> {
            let roomy = self.blobs().free_bytes()? > 4 * RESERVE as u64;
            if roomy && !self.top.contains(RESERVE_NAME)? {
                let file = self.top.create_file(RESERVE_NAME, 0o600)?;
                let written = deploy_store::disk::fault::write_all(&file, &vec![1; RESERVE]);
                written.map_err(|cause| deploy_store::Error::Io {
                    action: "write",
                    path: self.top.path_of(RESERVE_NAME),
                    cause,
                })?;
            }
            Ok(())
        };
        if let Err(err) = made() {
            tracing::warn!("no room is kept for a full disk: {err}");
        }
    }

    /// Removes those of `blobs` that nothing needs, row and file, and returns them. No
    /// version is bound meanwhile. What somebody was told of at `asked` or later stays.
    async fn remove_unneeded(
        &self,
        blobs: &[BlobInfo],
        asked: Timestamp,
    ) -> Result<Vec<BlobInfo>, Refusal> {
        let _binding = self.binding.lock().await;
        let transfers = self.transfers.blobs();
        let idle: Vec<BlobInfo> =
            blobs.iter().filter(|blob| !transfers.contains(&blob.digest)).cloned().collect();
        let condemned = self.catalog.condemn(&idle, asked, Timestamp::now()).await?;
        self.remove_condemned(condemned.iter().map(|blob| blob.digest).collect()).await?;
        Ok(condemned)
    }

    /// Removes the files of condemned blobs, then their rows.
    pub(crate) async fn remove_condemned(&self, digests: Vec<Digest>) -> Result<(), Refusal> {
        if digests.is_empty() {
            return Ok(());
        }
        let (store, files) = (Arc::clone(self.blobs()), digests.clone());
        blocking(move || store.remove_all(files)).await?;
        Ok(self.catalog.forget(digests).await?)
    }

    pub(crate) async fn list_blobs(&self) -> Result<Vec<BlobInfo>, Refusal> {
        let store = Arc::clone(self.blobs());
        Ok(blocking(move || store.list()).await?)
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::MIN)
}

/// Removes what is kept for a disk that is full, if it is. Returns whether there was any.
pub(crate) fn give_up_reserve(top: &Dir, blobs: &Blobs) -> deploy_store::Result<bool> {
    if blobs.free_bytes()? >= RESERVE as u64 || !top.contains(RESERVE_NAME)? {
        return Ok(false);
    }
    top.remove_file(RESERVE_NAME)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_reason_counts_and_what_has_none_goes_when_it_is_old() {
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
            blob("asked", 16, 0),
            blob("old", 32, 9),
        ];
        let (component, version) = ("c".parse().unwrap(), "v".parse().unwrap());
        let current = Reference::Current { configuration: "p".parse().unwrap(), number: 1 };
        let bound = Reference::Version { component, version };
        let pin = Reference::Pin {
            component: "c".parse().unwrap(),
            version: "v".parse().unwrap(),
            message: String::new(),
        };
        let references = References::from([
            (digest("shared"), vec![current, bound.clone()]),
            (digest("pinned"), vec![pin, bound]),
        ]);
        let transfers = BTreeSet::from([digest("read"), digest("shared")]);
        let asked = BTreeSet::from([digest("asked")]);
        let (go, kept) = plan(blobs, &references, &transfers, &asked, at(10));
        assert_eq!(go.iter().map(|blob| blob.bytes).collect::<Vec<_>>(), [32]);
        let kept: Vec<_> = kept.into_iter().map(|(why, count)| (why, count.bytes)).collect();
        let expected = [(Why::Current, 1), (Why::Pinned, 2), (Why::Transfer, 4), (Why::Young, 24)];
        assert_eq!(kept, expected);
    }
}
