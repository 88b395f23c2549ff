//! The verb `verify`. It reads and hashes every blob, checks the catalogue, and compares the blobs
//! with the catalogue. A damaged blob moves to `quarantine/`, and is never deleted there. An upload
//! of the same bytes replaces the damaged file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_store::{BlobInfo, Digest, Hasher, Meter, Unit};
use deploy_wire::command::Share;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::catalog::Reference;
use crate::error::Result;
use crate::registry::Registry;

/// The name of the note about the last verification.
pub const NOTE: &str = "verify";
/// The name of the note about the last verification that read all blobs.
pub const COMPLETE_NOTE: &str = "verify_complete";
/// The names of the notes that record where an interrupted run stopped. The first note is for runs
/// of operators, and the second note is for runs in the background.
const CURSORS: [&str; 2] = ["verify_cursor", "background_verify_cursor"];
/// How many bytes are read and hashed before another task gets a turn.
const PIECE: usize = 8 << 20;
/// Size of one read, in bytes. A buffer of this size fits into the processor's cache.
const BUFFER: usize = 256 << 10;

/// How much to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// The share of blobs to read, picked at random.
    pub sample: Option<Share>,
    /// The time after which the run begins no further blob; `None` means no limit.
    pub budget: Option<Duration>,
    /// Whether to continue where the last run stopped.
    pub resume: bool,
    /// The maximum number of bytes to read each second. Only a run in the background has a rate.
    /// Such a run does not wait for a run of an operator, and its caller writes the note about the
    /// run.
    pub rate: Option<u64>,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of blobs that were read.
    pub blobs: u64,
    /// The number of bytes that were read.
    pub bytes: u64,
    /// The number of blobs that exist.
    pub of: u64,
    /// Whether the run reached the last blob.
    pub complete: bool,
    /// The problems that the run found.
    pub findings: Vec<Finding>,
}

/// The kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The catalogue contradicts itself.
    Catalogue,
    /// The contents of a blob do not match the digest in its name. The blob is in quarantine.
    Damaged,
    /// A blob that the catalogue needs does not exist.
    Missing,
    /// A blob could not be read.
    Unreadable,
    /// A file among the blobs is not a blob. Such a file does not count as damage.
    Foreign,
}

/// A problem that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The kind of the problem.
    pub kind: Kind,
    /// The path of the file, relative to the registry's directory.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// The catalogue's references to the file.
    pub hits: Vec<Reference>,
}

/// The contents of the note about the last verification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noted {
    /// The time at which the verification ended.
    pub time: Timestamp,
    /// The number of blobs that were read.
    pub blobs: u64,
    /// The number of bytes that were read.
    pub bytes: u64,
    /// Whether the verification read all blobs.
    pub complete: bool,
    /// The number of findings that are damage.
    pub damaged: u64,
}

impl Verified {
    /// The number of findings that are damage.
    pub fn damaged(&self) -> usize {
        self.findings.iter().filter(|finding| finding.kind != Kind::Foreign).count()
    }
}

impl Registry {
    /// Verifies the catalogue, and the blobs within `scope`. At most one run of an operator and one
    /// run in the background may be active at a time.
    pub async fn verify(&self, scope: Scope) -> Result<Verified> {
        self.verify_counted(scope, &Meter::default()).await
    }

    /// Like [`Registry::verify`]; `meter` counts the bytes that are read.
    pub async fn verify_counted(&self, scope: Scope, meter: &Meter) -> Result<Verified> {
        let background = scope.rate.is_some();
        let _one_at_a_time = if background { None } else { Some(self.verifying.lock().await) };
        let cursor_note = CURSORS[usize::from(background)];
        let started = Instant::now();
        let mut verified = Verified { complete: true, ..Verified::default() };
        let noted: Option<String> =
            if scope.resume { self.catalog.note(cursor_note).await? } else { None };
        let from: Option<Digest> = noted.and_then(|digest| digest.parse().ok());
        // Only a run that starts at the first blob checks all histories. A run that continues an
        // earlier run does not.
        let problems = match from {
            None => self.catalog.check().await?,
            Some(_) => self.catalog.check_kept().await?,
        };
        self.find_without_reading(problems, &mut verified.findings).await?;
        if from.is_none() {
            self.compare_objects(&mut verified.findings).await?;
        }
        let mut blobs = self.blobs().list().await?;
        blobs.sort_by_key(|blob| blob.digest);
        verified.of = blobs.len() as u64;
        blobs.retain(|blob| from.is_none_or(|from| blob.digest > from));
        let mut last = None;
        meter.begin("read", Unit::Bytes, bytes_to_read(&blobs, scope.sample));
        for blob in blobs {
            if scope.budget.is_some_and(|budget| started.elapsed() >= budget) {
                verified.complete = false;
                break;
            }
            last = Some(blob.digest);
            if scope.sample.is_none_or(is_picked) {
                let found = self.verify_blob(&blob, scope.rate, meter).await?;
                verified.findings.extend(found);
                verified.blobs += 1;
                verified.bytes += blob.bytes;
            }
        }
        meter.end();
        verified.findings.sort();
        let cursor = last.or(from).filter(|_| !verified.complete);
        let cursor = cursor.map(|digest| digest.to_string()).unwrap_or_default();
        self.catalog.set_note(cursor_note, &cursor).await?;
        if !background {
            let complete = verified.complete && from.is_none() && scope.sample.is_none();
            self.note_verified(&verified, complete).await?;
        }
        Ok(verified)
    }

    /// Writes the note about the last verification. If `complete`, also writes the note about the
    /// last verification that read all blobs.
    pub async fn note_verified(&self, verified: &Verified, complete: bool) -> Result<()> {
        let (blobs, bytes, damaged) = (verified.blobs, verified.bytes, verified.damaged() as u64);
        let noted = Noted { time: Timestamp::now(), blobs, bytes, complete, damaged };
        if complete {
            self.catalog.set_note(COMPLETE_NOTE, &noted).await?;
        }
        self.catalog.set_note(NOTE, &noted).await
    }

    /// Finds problems without reading blobs. `problems` are the problems of the catalogue.
    async fn find_without_reading(
        &self,
        problems: Vec<String>,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        for why in problems {
            let path = "catalogue.db".to_owned();
            let why = format!("{why}; restore a backup of the catalogue");
            findings.push(Finding { kind: Kind::Catalogue, path, why, hits: Vec::new() });
        }
        let mut missing = BTreeSet::new();
        for digest in self.catalog.needs().await?.into_keys() {
            if !self.blobs().contains(digest).await? {
                missing.insert(digest);
            }
        }
        if !missing.is_empty() {
            // A blob that gc has removed in the meantime is not missing.
            let _binding = self.binding.lock().await;
            let now = self.catalog.needs().await?;
            missing.retain(|digest| now.contains_key(digest));
            for digest in missing.iter().copied().collect::<Vec<_>>() {
                if self.blobs().contains(digest).await? {
                    missing.remove(&digest);
                }
            }
        }
        for digest in missing {
            let (kind, why) = match self.catalog.blob(digest).await? {
                Some(row) if row.damaged => {
                    (Kind::Damaged, "is damaged and quarantined; upload the same bytes again")
                }
                _ => (Kind::Missing, "is missing; upload the same bytes again"),
            };
            findings.push(self.finding_in(digest, kind, why.to_owned()).await?);
        }
        if self.blobs().bucket().is_some() {
            return Ok(());
        }
        let store = Arc::clone(self.blobs().local());
        for name in blocking(move || store.foreign()).await? {
            let path = format!("files/{}", deploy_store::escape(&name));
            let why = "is not a blob; nothing uses it, and you may remove it".to_owned();
            findings.push(Finding { kind: Kind::Foreign, path, why, hits: Vec::new() });
        }
        Ok(())
    }

    /// Reads a blob. A damaged blob moves to quarantine.
    async fn verify_blob(
        &self,
        blob: &BlobInfo,
        rate: Option<u64>,
        meter: &Meter,
    ) -> Result<Option<Finding>> {
        let digest = blob.digest;
        if self.blobs().bucket().is_some() {
            return self.verify_object(digest, rate, meter).await;
        }
        let (file, found, bytes) = match hash(self, digest, rate, meter).await {
            Ok(hashed) => hashed,
            // gc has removed the blob in the meantime.
            Err(deploy_store::Error::NoSuchBlob(_)) => return Ok(None),
            Err(err) => {
                let why = format!(
                    "cannot be read: {err}; repair the disk or the file's permissions, or move the \
                     file away and upload the same bytes again"
                );
                return self.finding_in(digest, Kind::Unreadable, why).await.map(Some);
            }
        };
        if found == digest {
            return Ok(None);
        }
        let why = match bytes {
            bytes if bytes == blob.bytes => {
                "its contents do not match the digest in its name".to_owned()
            }
            bytes => format!("its {bytes} bytes do not match the digest in its name"),
        };
        let _binding = self.binding.lock().await;
        let store = Arc::clone(self.blobs().local());
        match blocking(move || store.reader(digest)).await {
            Ok(now) if is_same(&file, &now) => {}
            // Another run has already found the damage. Since then, a client may have uploaded the
            // blob again.
            Ok(_) | Err(deploy_store::Error::NoSuchBlob(_)) => return Ok(None),
            Err(err) => return Err(err.into()),
        }
        let (store, aside) = (Arc::clone(self.blobs().local()), Arc::clone(&self.quarantine));
        blocking(move || store.set_aside(digest, &aside)).await?;
        tracing::error!(
            event = "blob_damaged",
            %digest,
            bytes,
            "blob {digest}: {why}; quarantined"
        );
        self.catalog.mark_damaged(digest, bytes, Timestamp::now()).await?;
        let why = format!("{why}; quarantined, upload the same bytes again");
        self.finding_in(digest, Kind::Damaged, why).await.map(Some)
    }

    /// A finding about a blob, with the references to the blob.
    pub(super) async fn finding_in(
        &self,
        digest: Digest,
        kind: Kind,
        why: String,
    ) -> Result<Finding> {
        let hits = self.catalog.references_of(digest).await?;
        Ok(Finding { kind, path: format!("files/{digest}"), why, hits })
    }
}

/// The number of bytes to read. With a sample, this number is an estimate.
fn bytes_to_read(blobs: &[BlobInfo], sample: Option<Share>) -> u64 {
    let all: u64 = blobs.iter().map(|blob| blob.bytes).sum();
    match sample {
        Some(Share(share)) => all / u64::from(Share::ALL.0) * u64::from(share),
        None => all,
    }
}

/// Whether two open files are the same file.
fn is_same(one: &File, other: &File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Opens and reads the file of a blob. Returns the file, and the digest and the length of its
/// contents.
async fn hash(
    registry: &Registry,
    digest: Digest,
    rate: Option<u64>,
    meter: &Meter,
) -> deploy_store::Result<(File, Digest, u64)> {
    let store = Arc::clone(registry.blobs().local());
    let mut file = blocking(move || store.reader(digest)).await?;
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    loop {
        let began = Instant::now();
        let read;
        (file, hasher, read) = blocking(move || {
            let read = hash_piece(&mut file, &mut hasher).map_err(|cause| {
                deploy_store::Error::Io { action: "read", path: "blob".into(), cause }
            })?;
            Ok((file, hasher, read))
        })
        .await?;
        bytes += read;
        meter.add(read);
        if read == 0 {
            return Ok((file, hasher.finish(), bytes));
        }
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let due = Duration::from_millis(read.saturating_mul(1000) / rate);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
}

fn hash_piece(file: &mut File, hasher: &mut Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < PIECE {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                done += n;
            }
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(done as u64)
}

/// Whether the random sample includes the next blob.
fn is_picked(sample: Share) -> bool {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(()) % u64::from(Share::ALL.0) < u64::from(sample.0)
}
