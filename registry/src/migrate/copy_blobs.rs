//! Copies the blobs: files to objects, or objects to files. Each blob is hashed on the way. What is
//! in the new place already is not copied again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{BlobInfo, Blobs, Digest, Meter, Unit};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::ServerPlace;
use super::destination::{Destination, open_bucket};
use super::source::{SourceDirectory, SourceServer};
use crate::blocking::blocking;
use crate::bucket::{Bucket, Complete};
use crate::catalog::{Catalog, ObjectRow, ObjectState};
use crate::error::{Error, Result};

/// How many blobs are copied at the same time.
const AT_ONCE: usize = 8;
/// After how many copies they are recorded.
const BATCH: usize = 128;

/// The copied blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// The number of stored blobs.
    pub blobs: u64,
    /// The size of the stored blobs, in bytes.
    pub bytes: u64,
    /// The number of uploads that wait to be bound.
    pub staged: u64,
    /// Blobs that the catalogue lists, but that did not exist before the migration either.
    pub missing: Vec<Digest>,
}

/// Where blobs are sent from, and where to.
struct Sending<'a> {
    /// The directory with the blobs.
    dir: PathBuf,
    /// Whether the blobs are stored. Otherwise they wait to be bound.
    is_stored: bool,
    files: &'a Arc<Blobs>,
    bucket: &'a Bucket,
    meter: &'a Meter,
}

/// Sends all blobs of the directory `dir` to the bucket. Stored blobs become live objects, and
/// uploads become staged objects.
pub(super) async fn to_bucket(
    dir: &Path,
    source: &SourceDirectory,
    destination: &Destination,
    meter: &Meter,
) -> Result<Copied> {
    let files = Arc::clone(&source.blobs);
    let listed = blocking(move || Ok((files.list()?, files.list_staged()?)));
    let (stored, mut staged) = listed.await?;
    let known: BTreeSet<Digest> = stored.iter().map(|blob| blob.digest).collect();
    // An upload of bytes that are stored needs no object of its own.
    staged.retain(|blob| !known.contains(&blob.digest));
    let missing = missing(&source.catalog, |digest| known.contains(&digest)).await?;
    let sum = |blobs: &[BlobInfo]| blobs.iter().map(|blob| blob.bytes).sum::<u64>();
    let bytes = sum(&stored);
    meter.begin("sent", Unit::Bytes, bytes + sum(&staged));
    let sending = |name: &str, is_stored| {
        Ok::<_, Error>(Sending {
            dir: dir.join(name),
            is_stored,
            files: &source.blobs,
            bucket: destination.bucket()?,
            meter,
        })
    };
    let from_files = sending("files", true)?;
    for batch in stored.chunks(BATCH) {
        from_files.send_all(batch).await?;
        let digests: Vec<Digest> = batch.iter().map(|blob| blob.digest).collect();
        destination.catalog.make_objects_live(&digests).await?;
    }
    sending("uploads", false)?.send_all(&staged).await?;
    meter.end();
    let (blobs, staged) = (stored.len() as u64, staged.len() as u64);
    Ok(Copied { blobs, bytes, staged, missing })
}

impl Sending<'_> {
    async fn send_all(&self, blobs: &[BlobInfo]) -> Result<()> {
        let sent = stream::iter(blobs).map(|blob| self.send(blob)).buffer_unordered(AT_ONCE);
        sent.try_collect().await
    }

    async fn send(&self, blob: &BlobInfo) -> Result<()> {
        let (files, digest, is_stored) = (Arc::clone(self.files), blob.digest, self.is_stored);
        let open = move || {
            if is_stored { files.reader(digest) } else { files.staged_reader(digest) }
        };
        let file = blocking(open).await?;
        // A registry without a bucket does not record who sent an upload. A stored blob was checked
        // before it got its first reference.
        let (uploader, checked) = (String::new(), is_stored);
        let upload = Complete { digest, uploader, checked, max_staged: u64::MAX };
        let sent = self.bucket.send_blob(&upload, blob.bytes, file).await;
        sent.map_err(|err| reworded(&self.dir, digest, err))?;
        self.meter.add(blob.bytes);
        Ok(())
    }
}

/// The blobs that the catalogue lists and that do not exist, without damaged blobs.
async fn missing(catalog: &Catalog, exists: impl Fn(Digest) -> bool) -> Result<Vec<Digest>> {
    let rows = catalog.blobs().await?.into_iter().filter(|row| !row.damaged);
    Ok(rows.map(|row| row.digest).filter(|digest| !exists(*digest)).collect())
}

/// Rewords the error for a file whose bytes do not match its name.
fn reworded(dir: &Path, digest: Digest, err: Error) -> Error {
    match err {
        Error::Damaged(_) => Error::Damaged(format!(
            "migrate: {} is damaged: its bytes do not match its name; start the registry, run \
             verify, which moves the file to the quarantine, and then migrate again; the registry \
             has not moved",
            dir.join(digest.to_string()).display()
        )),
        other => other,
    }
}

/// Copies all live objects to `files/` in the directory `dir`, and all staged objects to `uploads/`.
pub(super) async fn to_files(
    dir: &Path,
    source: &SourceServer,
    from: &ServerPlace,
    meter: &Meter,
) -> Result<Copied> {
    let path = dir.join("files");
    // The copies in the cache of this bucket would have the same form as the files.
    let bucket = open_bucket(dir, &path, from, &source.catalog).await?;
    let files = Arc::new(Blobs::open(&path, &dir.join("uploads"), u64::MAX)?);
    files.clean_up()?;
    let live = by_digest(source.catalog.objects_in(&[ObjectState::Live]).await?);
    let mut staged = by_digest(source.catalog.objects_in(&[ObjectState::Staged]).await?);
    staged.retain(|digest, _| !live.contains_key(digest));
    let missing = missing(&source.catalog, |digest| live.contains_key(&digest)).await?;
    let sum = |rows: &BTreeMap<Digest, ObjectRow>| rows.values().map(|row| row.bytes).sum::<u64>();
    let bytes = sum(&live);
    meter.begin("copied", Unit::Bytes, bytes + sum(&staged));
    let rows: Vec<ObjectRow> = live.into_values().collect();
    for batch in rows.chunks(BATCH) {
        copy_all(batch, &bucket, &files, meter).await?;
        let (files, digests) = (Arc::clone(&files), batch.iter().map(|row| row.digest));
        let digests: Vec<Digest> = digests.collect();
        blocking(move || files.publish_all(&digests)).await?;
    }
    let staged: Vec<ObjectRow> = staged.into_values().collect();
    copy_all(&staged, &bucket, &files, meter).await?;
    meter.end();
    compare_files(&files, rows.clone()).await?;
    Ok(Copied { blobs: rows.len() as u64, bytes, staged: staged.len() as u64, missing })
}

fn by_digest(rows: Vec<ObjectRow>) -> BTreeMap<Digest, ObjectRow> {
    rows.into_iter().map(|row| (row.digest, row)).collect()
}

/// Copies objects to staged files.
async fn copy_all(
    rows: &[ObjectRow],
    bucket: &Bucket,
    files: &Arc<Blobs>,
    meter: &Meter,
) -> Result<()> {
    let copied = stream::iter(rows).map(|row| copy(row, bucket, files, meter));
    copied.buffer_unordered(AT_ONCE).try_collect().await
}

async fn copy(row: &ObjectRow, bucket: &Bucket, files: &Arc<Blobs>, meter: &Meter) -> Result<()> {
    let (here, digest, bytes) = (Arc::clone(files), row.digest, row.bytes);
    let exists = move || Ok(here.size(digest)? == Some(bytes) || here.is_staged(digest)?);
    if !blocking(exists).await? {
        bucket.copy_object(row, files).await?;
    }
    meter.add(row.bytes);
    Ok(())
}

/// Fails if a file is missing, or has another length than its object.
async fn compare_files(files: &Arc<Blobs>, rows: Vec<ObjectRow>) -> Result<()> {
    let files = Arc::clone(files);
    let wrong = blocking(move || {
        for row in rows {
            if files.size(row.digest)? != Some(row.bytes) {
                return Ok(Some(row.digest));
            }
        }
        Ok(None)
    });
    let Some(digest) = wrong.await? else { return Ok(()) };
    Err(Error::Failed(format!(
        "migrate: files/{digest} is missing or has another length; the registry has not moved"
    )))
}
