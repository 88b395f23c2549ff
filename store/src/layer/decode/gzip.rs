//! Reads gzip (RFC 1952) member by member, so that the bytes after each member can be checked.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::trailing::only_padding;

/// The first byte of a member.
const MAGIC: u8 = 0x1f;

/// The decompressed bytes of all members, one after another.
#[derive(Debug)]
pub struct Members<R> {
    /// The position of the reader. `None` only while `read` changes the position.
    at: Option<At<R>>,
}

#[derive(Debug)]
enum At<R> {
    /// The reader is within a member.
    Member(Box<GzDecoder<R>>),
    /// The reader is after a member.
    Between(R),
}

impl<R: BufRead> Members<R> {
    /// Reads from `source`, which begins with a member.
    pub fn new(source: R) -> Self {
        Self { at: Some(At::Member(GzDecoder::new(source).into())) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.at.take() {
                Some(At::Member(mut member)) => {
                    let read = member.read(buffer);
                    if !matches!(read, Ok(0)) {
                        self.at = Some(At::Member(member));
                        return read;
                    }
                    self.at = Some(At::Between(member.into_inner()));
                }
                Some(At::Between(mut source)) => match another(&mut source) {
                    Ok(true) => self.at = Some(At::Member(GzDecoder::new(source).into())),
                    other => {
                        self.at = Some(At::Between(source));
                        return other.map(|_| 0);
                    }
                },
                None => return Ok(0),
            }
        }
    }
}

/// Whether another member follows. Bytes that are not a member must be padding.
fn another(source: &mut impl BufRead) -> io::Result<bool> {
    match source.fill_buf()?.first() {
        None => Ok(false),
        Some(&MAGIC) => Ok(true),
        Some(_) => only_padding(source, "gzip").map(|()| false),
    }
}
