//! Decompression, told by the first bytes: gzip (RFC 1952, any number of members),
//! zstd (RFC 8878, any number of frames) or none.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Largest zstd window that is accepted, as a power of two: 32 MiB.
const ZSTD_WINDOW_LOG: u32 = 25;
/// Bytes that may come out before the ratio counts.
const RATIO_FREE: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;

/// The bytes of an archive after decompression. Reading to its end has checked every
/// checksum of the compressed form, and that nothing follows it.
pub struct Decoder<R: Read> {
    inner: Inner<R>,
    taken: Rc<Cell<u64>>,
    given: u64,
    ratio: u64,
}

enum Inner<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
}

type Source<R> = BufReader<Counting<io::Chain<Cursor<Vec<u8>>, R>>>;

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `reader` and chooses.
    pub fn new(mut reader: R, limits: Limits) -> Result<Self> {
        let fail = |err: io::Error| Error::BadArchive { reason: err.to_string() };
        let mut magic = Vec::new();
        reader.by_ref().take(4).read_to_end(&mut magic).map_err(fail)?;
        if magic.is_empty() {
            return Err(Error::BadArchive { reason: "is empty (0 bytes)".to_owned() });
        }
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        // A frame, or one of the sixteen kinds of skippable frames.
        let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd]
            || (magic.len() == 4 && magic[0] >> 4 == 5 && magic[1..] == [0x2a, 0x4d, 0x18]);
        let taken = Rc::new(Cell::new(0));
        let whole = Cursor::new(magic).chain(reader);
        let source =
            BufReader::with_capacity(BUFFER, Counting { inner: whole, count: Rc::clone(&taken) });
        let inner = if gzip {
            Inner::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if zstd {
            let mut decoder = zstd::Decoder::with_buffer(source).map_err(fail)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(fail)?;
            Inner::Zstd(Box::new(decoder))
        } else {
            Inner::Plain(source)
        };
        Ok(Self { inner, taken, given: 0, ratio: limits.ratio })
    }

    /// Whether the form ends with a mark of its own, so that a cut cannot go unseen.
    pub fn is_framed(&self) -> bool {
        !matches!(self.inner, Inner::Plain(_))
    }

    /// Whether the compressed form is read to its last byte.
    pub fn at_end(&mut self) -> io::Result<bool> {
        match &mut self.inner {
            Inner::Plain(source) => Ok(source.fill_buf()?.is_empty()),
            Inner::Gzip(decoder) => Ok(decoder.get_mut().fill_buf()?.is_empty()),
            Inner::Zstd(decoder) => Ok(decoder.get_mut().fill_buf()?.is_empty()),
        }
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
