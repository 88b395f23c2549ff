//! Decompresses archives. The first bytes show the format: gzip (RFC 1952, any number of members),
//! zstd (RFC 8878, any number of frames) or no compression. Only a limited number of zeros may
//! follow compressed data.

pub mod gzip;
pub mod trailing;
pub mod zstd;

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::limits::Limits;
use gzip::Members;
use zstd::{Frames, is_frame};

/// The number of bytes of output that are allowed in addition to the bytes that the ratio allows.
const RATIO_FREE: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;

/// The decompressed bytes of an archive. A read to the end verifies every checksum of the
/// compressed form, and checks that only padding follows the data.
pub struct Decoder<R: Read> {
    inner: Inner<R>,
    taken: Rc<Cell<u64>>,
    given: u64,
    ratio: u64,
}

enum Inner<R: Read> {
    Plain(Source<R>),
    Gzip(Box<Members<Source<R>>>),
    Zstd(Box<Frames<Source<R>>>),
}

type Source<R> = BufReader<Counting<io::Chain<Cursor<Vec<u8>>, R>>>;

impl<R: Read> Decoder<R> {
    /// Determines the format from the first bytes of `reader`.
    pub fn new(mut reader: R, limits: Limits) -> Result<Self> {
        let fail = |err: io::Error| Error::BadArchive { reason: err.to_string() };
        let mut magic = Vec::new();
        reader.by_ref().take(4).read_to_end(&mut magic).map_err(fail)?;
        if magic.is_empty() {
            return Err(Error::BadArchive { reason: "is empty (0 bytes)".to_owned() });
        }
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        let zstd = is_frame(&magic);
        let taken = Rc::new(Cell::new(0));
        let whole = Cursor::new(magic).chain(reader);
        let source =
            BufReader::with_capacity(BUFFER, Counting { inner: whole, count: Rc::clone(&taken) });
        let inner = if gzip {
            Inner::Gzip(Box::new(Members::new(source)))
        } else if zstd {
            Inner::Zstd(Box::new(Frames::new(source, limits.window).map_err(fail)?))
        } else {
            Inner::Plain(source)
        };
        Ok(Self { inner, taken, given: 0, ratio: limits.ratio })
    }

    /// Whether the compressed format has an end mark, so that truncated data is detected.
    pub fn is_framed(&self) -> bool {
        !matches!(self.inner, Inner::Plain(_))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.inner {
            Inner::Plain(source) => source.read(buffer),
            Inner::Gzip(decoder) => decoder.read(buffer),
            Inner::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.given += n as u64;
        let allowed = self.taken.get().saturating_mul(self.ratio).saturating_add(RATIO_FREE);
        if self.given > allowed {
            let ratio = self.ratio;
            return Err(io::Error::other(format!("unpacks to more than {ratio} times its size")));
        }
        Ok(n)
    }
}

struct Counting<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}
