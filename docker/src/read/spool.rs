//! Manages the temporary files, which have no names. Each file contains uncompressed layers one
//! after another, so that the importer reads and decompresses the input only once. Several files
//! allow the importer to write several layers at the same time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deploy_store::Size;

use crate::error::{Error, Result};

/// The number of temporary files.
pub const LANES: usize = 5;

/// The number of written bytes after which the free space is checked again.
const LOOK: u64 = 16 << 20;

/// The temporary files. The system removes them when their last handles are closed, even if the
/// program crashes.
#[derive(Debug)]
pub struct Spool {
    files: [Arc<File>; LANES],
    ends: [u64; LANES],
    dir: Arc<PathBuf>,
    taken: Arc<AtomicU64>,
    /// The number of bytes that were written to the last region of each temporary file. Skipped
    /// zeros do not count.
    last: [Arc<AtomicU64>; LANES],
    most: u64,
    min_free: u64,
}

/// The place of a layer in the temporary files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The number of the temporary file.
    pub lane: usize,
    /// The offset at which the region starts in the file, in bytes.
    pub start: u64,
    /// The length of the region in bytes.
    pub length: u64,
}

impl Spool {
    /// Creates files in `dir`, or in the system's directory for temporary files. Together, the
    /// files take at most `most` bytes.
    pub fn new(dir: Option<&Path>, most: u64) -> Result<Self> {
        let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let make = || match tempfile::tempfile_in(&dir) {
            Ok(file) => Ok(Arc::new(file)),
            Err(cause) => Err(Error::Temporary { action: "make", dir: dir.clone(), cause }),
        };
        let files = [make()?, make()?, make()?, make()?, make()?];
        Ok(Self {
            files,
            ends: [0; LANES],
            dir: Arc::new(dir),
            taken: Arc::default(),
            last: Default::default(),
            most,
            min_free: 0,
        })
    }

    /// Makes a write fail if less than `min_free` bytes of the filesystem are free, even if other
    /// programs fill the filesystem. The check runs once for every [`LOOK`] written bytes.
    #[must_use]
    pub fn leaving(self, min_free: u64) -> Self {
        Self { min_free, ..self }
    }

    /// The number of bytes that the files keep.
    pub fn len(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// Whether the files keep no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a new region at the end of a file. The file must have no other open region.
    pub fn append(&self, lane: usize) -> Appender {
        self.last[lane].store(0, Ordering::Relaxed);
        Appender {
            file: Some(Arc::clone(&self.files[lane])),
            start: self.ends[lane],
            dir: Arc::clone(&self.dir),
            taken: Arc::clone(&self.taken),
            last: Arc::clone(&self.last[lane]),
            most: self.most,
            min_free: self.min_free,
            length: 0,
            failed: None,
        }
    }

    /// Measures a region without keeping its bytes.
    pub fn measure(&self, lane: usize) -> Appender {
        Appender { file: None, ..self.append(lane) }
    }

    /// Keeps the region that was last appended to a file.
    pub fn keep(&mut self, lane: usize, length: u64) -> Region {
        let region = Region { lane, start: self.ends[lane], length };
        self.ends[lane] += length;
        region
    }

    /// Frees the space of the region that was last appended to a file, and does not keep it.
    pub fn discard(&self, lane: usize) -> Result<()> {
        let (file, end) = (&self.files[lane], self.ends[lane]);
        file.set_len(end).map_err(|cause| error(&self.dir, "shorten", cause))?;
        self.taken.fetch_sub(self.last[lane].swap(0, Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }

    /// Fills `buffer` from the region. The first byte is `offset` bytes after the start of the
    /// region.
    pub fn read(&self, region: Region, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let fits = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= region.length);
        let read = if fits {
            self.files[region.lane].read_exact_at(buffer, region.start + offset)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
        read.map_err(|cause| error(&self.dir, "read", cause))
    }
}

fn error(dir: &Path, action: &'static str, cause: io::Error) -> Error {
    Error::Temporary { action, dir: dir.to_owned(), cause }
}

/// Whether less than `min_free` bytes are free on the filesystem.
fn lacks(file: &File, min_free: u64) -> io::Result<bool> {
    if min_free == 0 {
        return Ok(false);
    }
    let stat = rustix::fs::fstatvfs(file)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) < min_free)
}

/// A region that is being written.
#[derive(Debug)]
pub struct Appender {
    /// `None` if the bytes are only counted.
    file: Option<Arc<File>>,
    start: u64,
    dir: Arc<PathBuf>,
    taken: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
    most: u64,
    min_free: u64,
    /// The number of bytes in the region so far.
    pub length: u64,
    failed: Option<io::Error>,
}

impl Appender {
    /// Whether the bytes are kept.
    pub fn keeps(&self) -> bool {
        self.file.is_some()
    }

    /// Ends the region. Zeros at the end of the region were not written, so this method may have to
    /// extend the file.
    pub fn finish(&mut self) {
        let Some(file) = &self.file else { return };
        let end = self.start + self.length;
        let lengthened = file
            .metadata()
            .and_then(|meta| if meta.len() < end { file.set_len(end) } else { Ok(()) });
        if let (None, Err(err)) = (&self.failed, lengthened) {
            self.failed = Some(err);
        }
    }

    /// The error of a failed write, if a write failed. If this method returns `None` after a failed
    /// copy, the source of the copy failed.
    pub fn failure(&mut self) -> Option<Error> {
        self.failed.take().map(|cause| error(&self.dir, "write", cause))
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len() as u64;
        let Some(file) = &self.file else {
            self.length += more;
            return Ok(bytes.len());
        };
        if bytes.iter().all(|byte| *byte == 0) {
            // A piece of zeros is skipped instead of written, so that it becomes a hole in the
            // file.
            self.length += more;
            return Ok(bytes.len());
        }
        let taken = self.taken.load(Ordering::Relaxed);
        let written = if taken.saturating_add(more) > self.most {
            let most = self.most;
            Err(io::Error::other(format!(
                "the image unpacks to more than the {most} bytes allowed"
            )))
        } else if taken / LOOK != (taken + more) / LOOK && lacks(file, self.min_free)? {
            let min_free = self.min_free;
            Err(io::Error::other(format!("the file would leave less than {} free", Size(min_free))))
        } else {
            file.write_all_at(bytes, self.start + self.length)
        };
        match written {
            Ok(()) => {
                self.taken.fetch_add(more, Ordering::Relaxed);
                self.last.fetch_add(more, Ordering::Relaxed);
                self.length += more;
                Ok(bytes.len())
            }
            Err(err) => {
                let told = io::Error::new(err.kind(), err.to_string());
                self.failed = Some(err);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that passes on the bytes of `inner`. It also writes all bytes to a region, and passes
/// them to `seen`, in large pieces.
pub struct Tee<'a, R, S> {
    inner: R,
    to: &'a mut Appender,
    seen: S,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<'a, R: Read, S: FnMut(&[u8])> Tee<'a, R, S> {
    /// Reads from `inner`.
    pub fn new(inner: R, to: &'a mut Appender, seen: S) -> Self {
        Self { inner, to, seen, buffer: vec![0; 256 << 10].into(), at: 0, end: 0 }
    }

    /// Reads `inner` to its end.
    pub fn drain(&mut self) -> io::Result<()> {
        self.at = self.end;
        while self.fill()? {
            self.at = self.end;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<bool> {
        if self.at == self.end {
            self.end = self.inner.read(&mut self.buffer)?;
            self.at = 0;
            (self.seen)(&self.buffer[..self.end]);
            self.to.write_all(&self.buffer[..self.end])?;
        }
        Ok(self.end > 0)
    }
}

impl<R: Read, S: FnMut(&[u8])> Read for Tee<'_, R, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let n = buffer.len().min(self.end - self.at);
        buffer[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_consecutive_and_discarded_ones_are_freed() {
        let mut spool = Spool::new(None, 17).unwrap();
        let (mut seen, mut read) = (0, Vec::new());
        let mut appender = spool.append(0);
        let mut tee = Tee::new(&b"hello world"[..], &mut appender, |bytes| seen += bytes.len());
        tee.by_ref().take(5).read_to_end(&mut read).unwrap();
        tee.drain().unwrap();
        assert_eq!((read, seen, appender.length), (b"hello".to_vec(), 11, 11));
        let one = spool.keep(0, 11);
        spool.append(0).write_all(b"lost").unwrap();
        spool.discard(0).unwrap();
        spool.append(0).write_all(b"two").unwrap();
        let two = spool.keep(0, 3);
        assert_eq!(two, Region { lane: 0, start: 11, length: 3 });
        // The limit also covers other files of the spool.
        let mut other = spool.append(1);
        other.write_all(b"abc").unwrap();
        other.write_all(b"more").unwrap_err();
        let refused = other.failure().unwrap().to_string();
        assert!(refused.contains("17 bytes") && other.failure().is_none(), "{refused}");
        let mut bytes = [0; 5];
        spool.read(one, 6, &mut bytes).unwrap();
        assert_eq!(&bytes, b"world");
        spool.read(two, 1, &mut bytes).unwrap_err();
    }

    #[test]
    fn zeros_take_no_space_and_read_back() {
        use std::os::unix::fs::MetadataExt as _;
        const LONG: usize = 1 << 20;
        let mut spool = Spool::new(None, 4).unwrap();
        // The discarded bytes must not appear again where a hole should be.
        spool.append(0).write_all(b"old").unwrap();
        spool.discard(0).unwrap();
        let mut appender = spool.append(0);
        let zeros = vec![0; LONG];
        for part in [&zeros[..], b"text", &zeros] {
            appender.write_all(part).unwrap();
        }
        appender.finish();
        assert!(appender.failure().is_none());
        let region = spool.keep(0, appender.length);
        let mut bytes = vec![1; usize::try_from(region.length).unwrap()];
        spool.read(region, 0, &mut bytes).unwrap();
        assert_eq!(&bytes[LONG..][..4], b"text");
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 4);
        assert!(spool.files[0].metadata().unwrap().blocks() * 512 < LONG as u64);
    }

    #[test]
    fn missing_directory_is_reported() {
        let refused = Spool::new(Some(Path::new("/nowhere")), 1).unwrap_err();
        assert!(refused.to_string().contains("/nowhere"), "{refused}");
        assert!(refused.hint().contains("-tmpdir"), "{refused}");
    }
}
