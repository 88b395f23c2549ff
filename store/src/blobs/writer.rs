//! Writes a blob and computes its digest. The bytes may arrive in any order. They are hashed as
//! they arrive, until a write arrives out of order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::{Digest, Hasher};
use crate::disk::{Dir, TempFile, fault, name_of};
use crate::error::{Error, Result};

/// A blob that is being written. Dropping an unfinished writer removes the file, unless
/// [`super::Blobs::resume`] made the writer.
#[derive(Debug)]
pub struct BlobWriter {
    dir: Arc<Dir>,
    max_bytes: u64,
    temp: TempFile,
    /// `None` after a write out of order. The whole file must then be read to hash the blob.
    hasher: Option<Hasher>,
    hashed: u64,
    end: u64,
}

impl BlobWriter {
    /// Continues the file `temp` in `dir`. The first `end` bytes of the file are already written,
    /// and `hasher` has hashed them.
    pub(super) fn new(
        dir: Arc<Dir>,
        max_bytes: u64,
        temp: TempFile,
        hasher: Hasher,
        end: u64,
    ) -> Self {
        Self { dir, max_bytes, temp, hasher: Some(hasher), hashed: end, end }
    }

    /// The number of bytes from the start of the file to the end of the farthest write.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Whether no bytes have been written.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Writes `bytes` at `offset`. Writes may come in any order and may overlap.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        let Some(end) = end.filter(|&end| end <= self.max_bytes) else {
            return Err(Error::OverLimit {
                what: "size of the upload".to_owned(),
                limit: self.max_bytes,
            });
        };
        fault::write_all_at(self.temp.file(), bytes, offset)
            .map_err(|err| self.temp.error("write", err))?;
        match &mut self.hasher {
            Some(hasher) if offset == self.hashed => {
                hasher.update(bytes);
                self.hashed = end;
            }
            Some(_) if bytes.is_empty() => {}
            _ => self.hasher = None,
        }
        self.end = self.end.max(end);
        Ok(())
    }

    /// Returns a second handle to the file. With this handle, the caller can sync the bytes written
    /// so far while more bytes are written. If such a sync fails, the caller must discard the blob.
    /// The system reports the error only once, so a later sync could succeed although bytes are
    /// lost.
    pub fn sync_handle(&self) -> Result<File> {
        self.temp.file().try_clone().map_err(|err| self.temp.error("duplicate", err))
    }

    /// Syncs the file, and renames the file to the blob's digest in the staging directory. The blob
    /// can then be published.
    pub fn finish(mut self) -> Result<Digest> {
        let digest = self.digest()?;
        self.commit(digest)?;
        Ok(digest)
    }

    /// Like [`BlobWriter::finish`], but fails and removes the file if the digest is not `expected`.
    pub fn finish_as(mut self, expected: Digest) -> Result<()> {
        let found = self.digest()?;
        if found == expected {
            return self.commit(expected);
        }
        self.temp.keep(false);
        let what = self.dir.path_of(self.temp.name()).display().to_string();
        Err(Error::DigestMismatch { what, expected, found })
    }

    /// Checks that the written bytes are the whole blob `expected`. If they are not, the method
    /// fails and removes the file. A correct file keeps its name for
    /// [`super::Blobs::partial_reader`]. The method neither syncs nor stages the file.
    pub fn check(mut self, expected: Digest) -> Result<()> {
        let found = self.digest()?;
        if found == expected {
            return Ok(());
        }
        self.temp.keep(false);
        let what = self.dir.path_of(self.temp.name()).display().to_string();
        Err(Error::DigestMismatch { what, expected, found })
    }

    fn digest(&mut self) -> Result<Digest> {
        if let Some(hasher) = self.hasher.take() {
            return Ok(hasher.finish());
        }
        let mut hasher = Hasher::default();
        read_all(self.temp.file(), |bytes| hasher.update(bytes))
            .map_err(|err| self.temp.error("read", err))?;
        Ok(hasher.finish())
    }

    fn commit(self, digest: Digest) -> Result<()> {
        // The age of the blob counts from the end of the upload, not from its start.
        let now = SystemTime::now();
        self.temp.file().set_modified(now).map_err(|err| self.temp.error("touch", err))?;
        self.temp.commit(&self.dir, &name_of(digest))
    }
}

/// Passes all bytes of `file` to `each`, and returns the length of the file.
pub(super) fn read_all(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(offset),
            Ok(n) => {
                each(&buffer[..n]);
                offset += n as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}
