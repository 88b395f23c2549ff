//! Reads a stored index entry by entry, without holding the whole index in memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{CHECKSUM, Input, MAGIC};
use crate::error::{Error, Result};
use crate::layer::entry::Entry;

/// The number of bytes that are read at a time.
const BUFFER: usize = 64 << 10;

/// Whether the file begins like an index of an earlier format. Any defect of the file is reported
/// later, when the index is read.
pub fn is_earlier(mut file: impl Read) -> bool {
    let mut begin = [0; MAGIC.len()];
    let read = file.read_exact(&mut begin).is_ok();
    read && begin[..7] == MAGIC[..7] && (FIRST..MAGIC[7]).contains(&begin[7])
}

/// The entries of an index with a valid checksum.
#[derive(Debug)]
pub struct Entries<R> {
    file: R,
    /// The path of the file, for messages.
    path: PathBuf,
    buffer: Vec<u8>,
    /// The start of the next entry in `buffer`.
    at: usize,
    /// The number of bytes before the checksum that are not in `buffer` yet.
    rest: u64,
    /// The number of entries that are not read yet.
    count: u64,
    current: bool,
}

/// The first version of the format. An index of this version has no entry for the root itself. This
/// program still reads such an index, so that the objects of the layer are kept.
const FIRST: u8 = 1;

impl<R: Read + Seek> Entries<R> {
    /// Verifies the checksum of the file in a first pass, and then begins to read the entries.
    /// `path` is for messages.
    pub fn open(mut file: R, path: &Path) -> Result<Self> {
        let damaged = |reason: &str| damaged(path, reason);
        let io = |err| Error::io("read", path, err);
        let length = file.seek(SeekFrom::End(0)).map_err(io)?;
        let head = MAGIC.len() + size_of::<u64>();
        let Some(body) = length.checked_sub(CHECKSUM as u64).filter(|body| *body >= head as u64)
        else {
            return Err(damaged("it is not a layer index"));
        };
        file.rewind().map_err(io)?;
        let mut begin = [0; MAGIC.len() + size_of::<u64>()];
        file.read_exact(&mut begin).map_err(io)?;
        let (magic, count) = begin.split_at(MAGIC.len());
        if magic[..7] != MAGIC[..7] {
            return Err(damaged("it is not a layer index"));
        }
        if magic[7] > MAGIC[7] {
            return Err(Error::NewerFormat { path: path.to_owned(), what: "layer index" });
        }
        let count = u64::from_le_bytes(count.try_into().expect("the number has 8 bytes"));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&begin);
        io::copy(&mut file.by_ref().take(body - head as u64), &mut hasher).map_err(io)?;
        let mut checksum = [0; CHECKSUM];
        file.read_exact(&mut checksum).map_err(io)?;
        let known = (FIRST..=MAGIC[7]).contains(&magic[7]);
        if *hasher.finalize().as_bytes() != checksum || !known {
            return Err(damaged("its checksum is wrong"));
        }
        file.seek(SeekFrom::Start(head as u64)).map_err(io)?;
        let (path, rest) = (path.to_owned(), body - head as u64);
        let current = magic == MAGIC;
        Ok(Self { file, path, buffer: Vec::new(), at: 0, rest, count, current })
    }

    /// Whether the index has the current format. In an earlier format, the entry for the root
    /// itself is missing.
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// Reads the next entry, which must exist.
    fn entry(&mut self) -> Result<Entry> {
        loop {
            let mut input = Input(&self.buffer[self.at..]);
            if let Some(entry) = input.entry() {
                self.at = self.buffer.len() - input.0.len();
                return Ok(entry);
            }
            // The buffer has only a part of the entry, or the entry is invalid.
            if self.rest == 0 {
                return Err(self.unreadable());
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let more = self.rest.min(self.buffer.len().max(BUFFER) as u64);
            let read = self.file.by_ref().take(more).read_to_end(&mut self.buffer);
            let read = read.map_err(|err| Error::io("read", &self.path, err))? as u64;
            if read < more {
                return Err(self.unreadable());
            }
            self.rest -= read;
        }
    }

    fn unreadable(&self) -> Error {
        damaged(&self.path, "its entries are malformed")
    }
}

impl<R: Read + Seek> Iterator for Entries<R> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            let left = self.rest > 0 || self.at < self.buffer.len();
            (self.at, self.rest) = (self.buffer.len(), 0);
            return left.then(|| Err(self.unreadable()));
        }
        self.count -= 1;
        let entry = self.entry();
        if entry.is_err() {
            (self.at, self.rest, self.count) = (self.buffer.len(), 0, 0);
        }
        Some(entry)
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_owned() }
}
