//! One temporary file without a name that holds the uncompressed layers one after another, so
//! that the input need be read, and inflated, only once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The temporary file. It is gone with its last handle, whatever becomes of the program.
#[derive(Debug)]
pub struct Spool {
    file: File,
    dir: PathBuf,
    end: u64,
    most: u64,
}

/// A layer's place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub start: u64,
    /// Its length.
    pub length: u64,
}

impl Spool {
    /// In `dir`, or where temporary files go. It takes no more than `most` bytes.
    pub fn new(dir: Option<&Path>, most: u64) -> Result<Self> {
        let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        match tempfile::tempfile_in(&dir) {
            Ok(file) => Ok(Self { file, dir, end: 0, most }),
            Err(cause) => Err(Error::Temporary { action: "make", dir, cause }),
        }
    }

    /// Bytes that are kept.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Begins another region at the end.
    pub fn append(&self) -> Appender<'_> {
        Appender { spool: self, length: 0, failed: None }
    }

    /// Keeps what was appended.
    pub fn keep(&mut self, length: u64) -> Region {
        let region = Region { start: self.end, length };
        self.end += length;
        region
    }

    /// Gives back the space of what was appended and is not kept.
    pub fn discard(&self) -> Result<()> {
        self.file.set_len(self.end).map_err(|cause| self.error("shorten", cause))
    }

    /// Fills `buffer` from the region, `offset` bytes after its start.
    pub fn read(&self, region: Region, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let fits = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= region.length);
        let read = if fits {
            self.file.read_exact_at(buffer, region.start + offset)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
        read.map_err(|cause| self.error("read", cause))
    }

    /// An error of the file.
    pub fn error(&self, action: &'static str, cause: io::Error) -> Error {
        Error::Temporary { action, dir: self.dir.clone(), cause }
    }
}

/// A region that is being written.
#[derive(Debug)]
pub struct Appender<'a> {
    spool: &'a Spool,
    /// Bytes written.
    pub length: u64,
    /// Why a write failed, so that it can be told from an error of the source.
    pub failed: Option<io::Error>,
}

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Spool { file, end, most, .. } = self.spool;
        let at = end + self.length;
        let written = if at.saturating_add(bytes.len() as u64) > *most {
            Err(io::Error::other(format!(
                "the image unpacks to more than the {most} bytes allowed"
            )))
        } else {
            file.write_all_at(bytes, at)
        };
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
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

/// Writes all that is read from `inner` to a region, and shows it to `seen`, a large piece at a
/// time.
pub struct Tee<'a, 'b, R, S> {
    inner: R,
    to: &'a mut Appender<'b>,
    seen: S,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<'a, 'b, R: Read, S: FnMut(&[u8])> Tee<'a, 'b, R, S> {
    /// Reads from `inner`.
    pub fn new(inner: R, to: &'a mut Appender<'b>, seen: S) -> Self {
        Self { inner, to, seen, buffer: vec![0; 256 << 10].into(), at: 0, end: 0 }
    }

    /// Reads what is left, whatever it is.
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

impl<R: Read, S: FnMut(&[u8])> Read for Tee<'_, '_, R, S> {
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
    fn regions_follow_each_other_and_what_is_not_kept_is_gone() {
        let mut spool = Spool::new(None, 17).unwrap();
        let (mut seen, mut read) = (0, Vec::new());
        let mut appender = spool.append();
        let mut tee = Tee::new(&b"hello world"[..], &mut appender, |bytes| seen += bytes.len());
        tee.by_ref().take(5).read_to_end(&mut read).unwrap();
        tee.drain().unwrap();
        assert_eq!((read, seen, appender.length), (b"hello".to_vec(), 11, 11));
        let length = appender.length;
        let one = spool.keep(length);
        spool.append().write_all(b"lost").unwrap();
        spool.discard().unwrap();
        spool.append().write_all(b"two").unwrap();
        let two = spool.keep(3);
        let refused = spool.append().write_all(b"more").unwrap_err().to_string();
        assert!(refused.contains("17 bytes"), "{refused}");
        assert_eq!(two, Region { start: 11, length: 3 });
        let mut bytes = [0; 5];
        spool.read(one, 6, &mut bytes).unwrap();
        assert_eq!(&bytes, b"world");
        spool.read(two, 1, &mut bytes).unwrap_err();
    }

    #[test]
    fn a_place_that_is_none_is_named() {
        let refused = Spool::new(Some(Path::new("/nowhere")), 1).unwrap_err().to_string();
        assert!(refused.contains("/nowhere") && refused.contains("-tmpdir"), "{refused}");
    }
}
