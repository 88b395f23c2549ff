//! Reads the bytes of an archive: blocks, skipped bodies, and bytes that are read ahead.

use std::io::{self, Read};

use super::Tarball;
use crate::error::{Error, Result};

pub(super) const BLOCK: usize = 512;

impl<R: Read> Tarball<R> {
    /// Reads all bytes after the first zero block, and refuses bytes that are not zero.
    pub(super) fn read_to_end(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.read_full(&mut buffer)? {
                0 => return Ok(()),
                n if buffer[..n].iter().any(|&byte| byte != 0) => {
                    return Err(Error::bad_archive("has data after its end"));
                }
                _ => {}
            }
        }
    }

    pub(super) fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        if self.read_full(&mut block)? < BLOCK {
            return Err(Error::bad_archive("is cut off"));
        }
        Ok(block)
    }

    pub(super) fn skip_body(&mut self, size: u64) -> Result<()> {
        self.skip(size)?;
        self.skip_padding(padding_of(size))
    }

    /// Skips the padding of a body's last block. A framed archive may end without this padding,
    /// because umoci writes such archives.
    pub(super) fn skip_padding(&mut self, bytes: u64) -> Result<()> {
        let mut buffer = [0; BLOCK];
        let wanted = usize::try_from(bytes).unwrap_or(BLOCK).min(BLOCK);
        if self.read_full(&mut buffer[..wanted])? < wanted && !self.framed {
            return Err(Error::bad_archive("is cut off in an entry's body"));
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<()> {
        let mut buffer = [0; 4 << 10];
        while bytes > 0 {
            let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            bytes -= self.read_some(&mut buffer[..most])? as u64;
        }
        Ok(())
    }

    /// Reads at least one byte.
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.read_inner(buffer) {
                Ok(0) => return Err(Error::bad_archive("is cut off in an entry's body")),
                Ok(n) => {
                    self.position += n as u64;
                    return Ok(n);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(unreadable(&err)),
            }
        }
    }

    /// Reads until `buffer` is full or the input ends.
    pub(super) fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut n = 0;
        while n < buffer.len() {
            match self.read_inner(&mut buffer[n..]) {
                Ok(0) => break,
                Ok(more) => {
                    n += more;
                    self.position += more as u64;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(unreadable(&err)),
            }
        }
        Ok(n)
    }

    /// Reads bytes. The bytes that were read ahead come first.
    pub(super) fn read_inner(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.inner.read(buffer);
        }
        let n = self.ahead.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        Ok(n)
    }
}

/// The number of bytes that fill up the last block of a body of `size` bytes.
pub(super) fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

pub(super) fn unreadable(err: &io::Error) -> Error {
    let text = err.to_string();
    // Each decoder has its own error text for truncated input.
    let cut = ["incomplete", "unexpected end"];
    let is_cut = err.kind() == io::ErrorKind::UnexpectedEof
        || cut.iter().any(|part| text.to_ascii_lowercase().contains(part));
    let hint = if is_cut { "; it is cut off: pack or copy it again" } else { "" };
    Error::BadArchive { reason: format!("cannot be read: {text}{hint}") }
}
