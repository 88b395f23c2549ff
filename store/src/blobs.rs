//! Stores blobs. A blob is a whole archive, and its name is the sha256 of the archive. [`Blobs`]
//! manages the registry's directories `files/` and `uploads/`, and the agent's `cache/` and
//! `partial/`.
//!
//! A blob is first written to the staging directory, under a temporary name (`upload-…`). When the
//! blob is complete and synced, the file is renamed to its digest within the staging directory.
//! Publishing moves the blob to the files directory under the same name. Each of these two moves is
//! one rename. A download that can be resumed has the name `partial-…` and the digest. An agent
//! publishes such a download directly. A file gets a digest as its whole name only after all its
//! bytes were hashed.

mod publish_all;
mod writer;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::disk::{Dir, FileType, TempFile, digest_of, fault, name_of};
use crate::error::{Error, Result};

pub use writer::BlobWriter;
use writer::read_all;

const UPLOAD: &str = "upload";
const PARTIAL: &str = "partial-";
/// The prefix of the Go agent's unfinished downloads.
const GO_TEMPORARY: &[u8] = b"temp-";

/// A directory of published blobs with a staging directory on the same filesystem.
#[derive(Debug)]
pub struct Blobs {
    files: Arc<Dir>,
    staging: Arc<Dir>,
    max_bytes: u64,
}

/// A published blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// The digest, which is the blob's name.
    pub digest: Digest,
    /// The size in bytes.
    pub bytes: u64,
    /// The mtime of the blob's file, in whole seconds.
    pub modified: SystemTime,
}

/// A number of files and their size, for example the files that a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// The number of files.
    pub files: u64,
    /// The total size of these files in bytes.
    pub bytes: u64,
}

impl Blobs {
    /// Opens the directories `files` and `staging`. A missing directory is created. A blob may have
    /// at most `max_bytes` bytes.
    pub fn open(files: &Path, staging: &Path, max_bytes: u64) -> Result<Self> {
        let files = Dir::open_or_create(files, 0o700)?;
        let staging = Dir::open_or_create(staging, 0o700)?;
        Ok(Self { files: Arc::new(files), staging: Arc::new(staging), max_bytes })
    }

    /// Like [`Blobs::open`], but for two directories in `dir`. The method refuses a symlink in
    /// place of either directory. Otherwise, a user who can write to `dir` could choose where blobs
    /// are written.
    pub(crate) fn open_in(dir: &Dir, files: &CStr, staging: &CStr, max_bytes: u64) -> Result<Self> {
        let files = dir.child_or_create(files, 0o700)?;
        let staging = dir.child_or_create(staging, 0o700)?;
        Ok(Self { files: Arc::new(files), staging: Arc::new(staging), max_bytes })
    }

    /// Begins a new blob whose digest is not known yet.
    pub fn stage(&self) -> Result<BlobWriter> {
        let temp = TempFile::create(&self.staging, UPLOAD)?;
        Ok(self.staging(temp, Hasher::default(), 0))
    }

    /// Begins the blob `expected`, or resumes an earlier attempt to write this blob. Writing
    /// continues at the offset [`BlobWriter::len`]. Dropping the writer keeps the bytes that were
    /// written.
    pub fn resume(&self, expected: Digest) -> Result<BlobWriter> {
        let temp = TempFile::resume(&self.staging, &name_of_partial(expected))?;
        let mut hasher = Hasher::default();
        let end = read_all(temp.file(), |bytes| hasher.update(bytes))
            .map_err(|err| temp.error("read", err))?;
        Ok(self.staging(temp, hasher, end))
    }

    /// Opens the partial blob that [`Blobs::resume`] began.
    pub fn partial_reader(&self, digest: Digest) -> Result<File> {
        match self.staging.open_file(&name_of_partial(digest)) {
            Err(err) if err.is_not_found() => Err(Error::NoSuchBlob(digest)),
            other => other,
        }
    }

    /// Publishes the blob that [`Blobs::resume`] began. The blob must be complete. If there is no
    /// such blob, the method does nothing.
    pub fn publish_partial(&self, digest: Digest) -> Result<()> {
        let name = name_of_partial(digest);
        match self.staging.open_file(&name) {
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err),
            Ok(file) => fault::step().map_err(io::Error::from).and_then(|()| file.sync_all()),
        }
        .map_err(|err| Error::io("sync", self.staging.path_of(&name), err))?;
        self.staging.rename(&name, &self.files, &name_of(digest))?;
        self.files.sync()?;
        self.staging.sync()
    }

    /// Removes the partial blob that [`Blobs::resume`] began.
    pub fn remove_partial(&self, digest: Digest) -> Result<()> {
        self.staging.remove_file(&name_of_partial(digest))
    }

    fn staging(&self, temp: TempFile, hasher: Hasher, end: u64) -> BlobWriter {
        BlobWriter::new(Arc::clone(&self.staging), self.max_bytes, temp, hasher, end)
    }

    /// Stages the bytes of `from`, checks that their digest is `expected`, and publishes the blob.
    /// If the blob is already published, the method does nothing.
    pub fn ingest(&self, expected: Digest, mut from: impl Read) -> Result<()> {
        if self.contains(expected)? {
            return Ok(());
        }
        let mut staging = self.stage()?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => staging.write_at(staging.len(), &buffer[..n])?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Error::io("read blob for", self.files.path(), err)),
            }
        }
        staging.finish_as(expected)?;
        self.publish(expected)
    }

    /// Makes the staged blob visible. The call also succeeds if the blob is already published.
    pub fn publish(&self, digest: Digest) -> Result<()> {
        let name = name_of(digest);
        if self.files.contains(&name)? {
            return self.staging.remove_file(&name);
        }
        match self.staging.rename(&name, &self.files, &name) {
            Err(err) if err.is_not_found() => return Err(Error::NoSuchBlob(digest)),
            other => other?,
        }
        self.files.sync()?;
        self.staging.sync()
    }

    /// Moves a published blob back to the staging directory, for example because the database row
    /// for the blob cannot be written.
    pub fn withdraw(&self, digest: Digest) -> Result<()> {
        let name = name_of(digest);
        self.files.rename(&name, &self.staging, &name)?;
        self.staging.sync()?;
        self.files.sync()
    }

    /// Opens a published blob. If the blob is removed while it is open, it stays readable.
    pub fn reader(&self, digest: Digest) -> Result<File> {
        open_blob(&self.files, digest)
    }

    /// Opens a complete staged blob.
    pub fn staged_reader(&self, digest: Digest) -> Result<File> {
        open_blob(&self.staging, digest)
    }

    /// Whether the blob is published.
    pub fn contains(&self, digest: Digest) -> Result<bool> {
        self.files.contains(&name_of(digest))
    }

    /// Whether the blob is complete in the staging directory.
    pub fn is_staged(&self, digest: Digest) -> Result<bool> {
        self.staging.contains(&name_of(digest))
    }

    /// All published blobs, sorted by digest. Files whose names are not digests are skipped.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        blobs_in(&self.files)
    }

    /// All complete staged blobs, sorted by digest.
    pub fn list_staged(&self) -> Result<Vec<BlobInfo>> {
        blobs_in(&self.staging)
    }

    /// The length of a published blob in bytes. `None` if there is no such blob.
    pub fn size(&self, digest: Digest) -> Result<Option<u64>> {
        match self.files.stat(&name_of(digest)) {
            Err(err) if err.is_not_found() => Ok(None),
            other => other.map(|stat| Some(u64::try_from(stat.st_size).unwrap_or(0))),
        }
    }

    /// The names in the files directory that belong to no blob. Such a name is not a digest, or is
    /// not the name of a regular file.
    pub fn foreign(&self) -> Result<Vec<String>> {
        let items = self.files.list()?.into_iter();
        let foreign = items
            .filter(|item| digest_of(&item.name).is_none() || item.kind != FileType::RegularFile);
        Ok(foreign.map(|item| item.name.to_string_lossy().into_owned()).collect())
    }

    /// Removes a published blob. A missing blob counts as success.
    pub fn remove(&self, digest: Digest) -> Result<()> {
        self.remove_all([digest])
    }

    /// Removes published blobs. Missing blobs are skipped.
    pub fn remove_all(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        for digest in digests {
            self.files.remove_file(&name_of(digest))?;
        }
        self.files.sync()
    }

    /// Moves a published blob to the directory `aside`, under a name that is not used in `aside`.
    pub fn set_aside(&self, digest: Digest, aside: &Dir) -> Result<()> {
        let name = |n: u32| match n {
            0 => name_of(digest),
            n => CString::new(format!("{digest}.{n}")).expect("hex has no NUL"),
        };
        let mut n = 0;
        while aside.contains(&name(n))? {
            n += 1;
        }
        self.files.rename(&name_of(digest), aside, &name(n))?;
        aside.sync()?;
        self.files.sync()
    }

    /// Removes a complete staged blob. A missing blob counts as success.
    pub fn unstage(&self, digest: Digest) -> Result<()> {
        self.staging.remove_file(&name_of(digest))
    }

    /// Removes each staged file whose mtime is before `before`. A file that a writer holds open
    /// stays.
    pub fn expire(&self, before: SystemTime) -> Result<Swept> {
        Ok(self.remove_staged(self.expired(before, false)?))
    }

    /// Removes the unfinished downloads that a Go agent left among the blobs.
    pub fn clean_up_after_go(&self) -> Result<()> {
        for item in self.files.list()? {
            if item.name.to_bytes().starts_with(GO_TEMPORARY) && item.kind == FileType::RegularFile
            {
                remove_leftover(&self.files, &item.name);
            }
        }
        Ok(())
    }

    /// Removes the uploads that a crash interrupted, regardless of their age. Call this method
    /// before any upload begins.
    pub fn clean_up(&self) -> Result<Swept> {
        Ok(self.remove_staged(self.expired(SystemTime::UNIX_EPOCH, true)?))
    }

    fn remove_staged(&self, files: Vec<(CString, u64)>) -> Swept {
        let mut swept = Swept::default();
        for (name, bytes) in files {
            if !remove_leftover(&self.staging, &name) {
                continue;
            }
            swept.files += 1;
            swept.bytes += bytes;
        }
        swept
    }

    /// Counts the files that [`Blobs::expire`] would remove.
    pub fn would_expire(&self, before: SystemTime) -> Result<Swept> {
        let expired = self.expired(before, false)?;
        let bytes = expired.iter().map(|(_, bytes)| bytes).sum();
        Ok(Swept { files: expired.len() as u64, bytes })
    }

    fn expired(&self, before: SystemTime, unfinished: bool) -> Result<Vec<(CString, u64)>> {
        let mut expired = Vec::new();
        for item in self.staging.list()? {
            let Ok(file) = self.staging.open_file(&item.name) else { continue };
            let path = || self.staging.path_of(&item.name);
            let meta = file.metadata().map_err(|err| Error::io("stat", path(), err))?;
            let name = item.name.to_string_lossy();
            let abandoned = unfinished && name.starts_with("upload-");
            let ours = name.starts_with("upload-")
                || name.starts_with(PARTIAL)
                || digest_of(&item.name).is_some();
            let old = meta.modified().is_ok_and(|modified| modified < before);
            if ours && (old || abandoned) && !crate::disk::is_held(&file) {
                expired.push((item.name, meta.len()));
            }
        }
        Ok(expired)
    }

    /// The number of files in the staging directory, and their total size.
    pub fn staged(&self) -> Result<Swept> {
        let mut staged = Swept::default();
        for item in self.staging.list()? {
            let Ok(stat) = self.staging.stat(&item.name) else { continue };
            staged.files += 1;
            staged.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(staged)
    }

    /// The number of free bytes on the filesystem of the blobs.
    pub fn free_bytes(&self) -> Result<u64> {
        self.files.free().map(|(bytes, _)| bytes)
    }

    /// The size of the filesystem of the blobs, in bytes.
    pub fn filesystem_bytes(&self) -> Result<u64> {
        self.files.filesystem_bytes()
    }
}

fn open_blob(dir: &Dir, digest: Digest) -> Result<File> {
    match dir.open_file(&name_of(digest)) {
        Err(err) if err.is_not_found() => Err(Error::NoSuchBlob(digest)),
        other => other,
    }
}

/// The blobs in a directory, sorted by digest.
fn blobs_in(dir: &Dir) -> Result<Vec<BlobInfo>> {
    let mut blobs = Vec::new();
    for item in dir.list()? {
        let Some(digest) = digest_of(&item.name) else { continue };
        if item.kind != FileType::RegularFile {
            continue;
        }
        let stat = match dir.stat(&item.name) {
            Err(err) if err.is_not_found() => continue,
            other => other?,
        };
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        blobs.push(BlobInfo { digest, bytes, modified: SystemTime::UNIX_EPOCH + seconds });
    }
    Ok(blobs)
}

fn name_of_partial(digest: Digest) -> CString {
    CString::new(format!("{PARTIAL}{digest}")).expect("hex has no NUL")
}

/// Removes a leftover file. Returns whether the file was removed. If the removal fails, the
/// function logs the error and returns `false`.
fn remove_leftover(dir: &Dir, name: &CStr) -> bool {
    dir.remove_tree(name)
        .inspect_err(|err| {
            let path = dir.path_of(name);
            tracing::warn!(
                event = "not_removed",
                path = %path.display(),
                "{} is not needed any more but cannot be removed: {err}; a later sweep or start \
                 tries again",
                path.display()
            );
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Blobs {
        Blobs::open(&dir.join("files"), &dir.join("uploads"), 1 << 20).unwrap()
    }

    fn contents(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn staged_blob_survives_reopen_and_publish_is_idempotent() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let mut staging = blobs.stage().unwrap();
        staging.write_at(0, b"hello ").unwrap();
        staging.write_at(6, b"world").unwrap();
        let digest = staging.finish().unwrap();
        assert_eq!(digest, Digest::of(b"hello world"));
        let blobs = open(temp.path());
        assert!(blobs.is_staged(digest).unwrap() && !blobs.contains(digest).unwrap());
        let staged = blobs.list_staged().unwrap();
        assert_eq!(
            staged.iter().map(|blob| (blob.digest, blob.bytes)).collect::<Vec<_>>(),
            [(digest, 11)]
        );
        blobs.publish(digest).unwrap();
        blobs.publish(digest).unwrap();
        assert_eq!(contents(blobs.reader(digest).unwrap()), b"hello world");
        assert_eq!(blobs.list().unwrap().len(), 1);
        assert_eq!(blobs.list_staged().unwrap(), []);
        blobs.remove(digest).unwrap();
        blobs.remove(digest).unwrap();
        assert!(matches!(blobs.reader(digest), Err(Error::NoSuchBlob(_))));
        assert!(matches!(blobs.publish(digest), Err(Error::NoSuchBlob(_))));
    }

    #[test]
    fn digest_is_that_of_the_final_bytes_in_any_order_of_writes() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let mut staging = blobs.stage().unwrap();
        staging.write_at(6, b"world").unwrap();
        staging.write_at(0, b"HELLO ").unwrap();
        staging.write_at(0, b"hello").unwrap();
        assert_eq!(staging.finish().unwrap(), Digest::of(b"hello world"));
        let over = blobs.stage().unwrap().write_at(u64::MAX - 1, b"xxxx");
        assert!(matches!(over, Err(Error::OverLimit { .. })));
    }

    #[test]
    fn wrong_bytes_are_not_published_and_partial_blobs_resume() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let expected = Digest::of(b"hello world");
        assert!(matches!(
            blobs.ingest(expected, &b"hello w0rld"[..]),
            Err(Error::DigestMismatch { .. })
        ));
        blobs.resume(expected).unwrap().write_at(0, b"hello ").unwrap();
        let blobs = open(temp.path());
        let mut staging = blobs.resume(expected).unwrap();
        assert_eq!(staging.len(), 6);
        staging.write_at(6, b"world").unwrap();
        staging.finish_as(expected).unwrap();
        blobs.publish(expected).unwrap();
        let mut staging = blobs.resume(expected).unwrap();
        staging.write_at(0, b"bad").unwrap();
        staging.finish_as(expected).unwrap_err();
        assert!(blobs.resume(expected).unwrap().is_empty());
    }

    #[test]
    fn expire_keeps_files_that_are_being_written() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = open(temp.path());
        let mut staging = blobs.stage().unwrap();
        staging.write_at(0, b"a").unwrap();
        let other = blobs.stage().unwrap().finish().unwrap();
        std::fs::write(temp.path().join("uploads/upload-1-1"), "cut off").unwrap();
        let swept = blobs.clean_up().unwrap();
        assert_eq!(swept, Swept { files: 1, bytes: 7 });
        assert!(blobs.is_staged(other).unwrap());
        let later = SystemTime::now() + std::time::Duration::from_secs(9);
        assert_eq!(blobs.expire(later).unwrap().files, 1);
        staging.finish().unwrap();
    }
}
