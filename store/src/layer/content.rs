//! Computes the digest of a file's contents. The time for this computation depends on the amount of
//! data in the file, but not on the length of the holes.
//!
//! Contents consist of blocks of 64 KiB. A block of zeros is counted instead of hashed. The zeros
//! of such a block may be a hole in an archive, a hole in a filesystem, or written zeros. The
//! digest is the same in all three cases. If the contents have no such block, the digest is the
//! BLAKE3 hash of the contents.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::{fmt, io};

use crate::disk::{Part, fault, parts};

/// The digest of a file's contents (see [`ContentHasher`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content(pub [u8; 32]);

impl Content {
    /// The digest of `bytes` as the contents of a file.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = ContentHasher::default();
        hasher.update(bytes);
        hasher.content()
    }

    /// The digest of an empty file.
    pub fn empty() -> Self {
        Self::of(b"")
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of bytes in a block.
const BLOCK: u64 = 64 << 10;
/// The number of bytes that are read from a file at a time.
const BUFFER: usize = 256 << 10;
/// The context string for BLAKE3. The string separates digests of contents with blocks of zeros
/// from all other digests.
const CONTEXT: &str = "deploy-tools 2026 contents of a file with blocks of zeros";
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Computes the digest of contents that arrive piece by piece.
#[derive(Debug, Clone)]
pub struct ContentHasher {
    /// The hash over all bytes except blocks of zeros.
    data: blake3::Hasher,
    /// The hash over the start and the length of each run of blocks of zeros. `None` until the
    /// first such run ends.
    runs: Option<Box<blake3::Hasher>>,
    /// The number of bytes so far.
    at: u64,
    /// The number of zeros in the current block, if the block has only zeros so far. Otherwise 0.
    zeros: u64,
    /// The number of bytes in the blocks of zeros directly before the current block.
    run: u64,
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self { data: blake3::Hasher::new(), runs: None, at: 0, zeros: 0, run: 0 }
    }
}

impl ContentHasher {
    /// Appends `bytes` to the contents.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let into = self.at % BLOCK;
            let room = usize::try_from(BLOCK - into).expect("a block is short");
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            if self.zeros == into && is_zero(part) {
                self.more_zeros(part.len() as u64);
            } else {
                self.end_zeros();
                self.data.update(part);
                self.at += part.len() as u64;
            }
        }
    }

    /// Appends `length` zeros to the contents.
    pub fn skip(&mut self, mut length: u64) {
        while length > 0 {
            let into = self.at % BLOCK;
            let n = if into == 0 && length >= BLOCK {
                let whole = length - length % BLOCK;
                self.at += whole;
                self.run += whole;
                whole
            } else {
                let n = length.min(BLOCK - into);
                if self.zeros == into {
                    self.more_zeros(n);
                } else {
                    self.data.update(zeros(n));
                    self.at += n;
                }
                n
            };
            length -= n;
        }
    }

    /// The number of bytes so far.
    pub fn length(&self) -> u64 {
        self.at
    }

    /// The digest of all contents so far.
    pub fn content(&self) -> Content {
        if self.runs.is_none() && self.run == 0 && self.zeros == 0 {
            return Content(*self.data.finalize().as_bytes());
        }
        let mut whole = self.clone();
        // The last block may be incomplete.
        whole.end_zeros_of(self.zeros);
        let data = whole.data.finalize();
        let Some(mut runs) = whole.runs else { return Content(*data.as_bytes()) };
        runs.update(&self.at.to_le_bytes());
        runs.update(data.as_bytes());
        Content(*runs.finalize().as_bytes())
    }

    /// Counts `n` more zeros in the current block, which has only zeros so far.
    fn more_zeros(&mut self, n: u64) {
        self.at += n;
        self.zeros += n;
        if self.zeros == BLOCK {
            self.run += BLOCK;
            self.zeros = 0;
        }
    }

    /// Ends a run of zeros before other bytes.
    fn end_zeros(&mut self) {
        if self.run > 0 || self.zeros > 0 {
            self.end_zeros_of(self.at % BLOCK);
        }
    }

    /// Ends a run of zeros at the offset `into` of the current block.
    fn end_zeros_of(&mut self, into: u64) {
        if self.run > 0 {
            let start = self.at - into - self.run;
            let runs =
                self.runs.get_or_insert_with(|| blake3::Hasher::new_derive_key(CONTEXT).into());
            runs.update(&start.to_le_bytes());
            runs.update(&self.run.to_le_bytes());
            self.run = 0;
        }
        self.data.update(zeros(self.zeros));
        self.zeros = 0;
    }
}

/// The digest and the length in bytes of an open file's contents. Holes are not read.
pub fn content_of(file: &File) -> io::Result<(Content, u64)> {
    content_of_seen(file, |_| {})
}

/// Like [`content_of`], but calls `seen` after each read with the number of bytes, and for each
/// hole with the length of the hole.
pub fn content_of_seen(file: &File, mut seen: impl FnMut(u64)) -> io::Result<(Content, u64)> {
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; BUFFER];
    parts(file, |part| match part {
        Part::Hole(length) => {
            hasher.skip(length);
            seen(length);
            Ok(())
        }
        Part::Data(range) => {
            let mut at = range.start;
            while at < range.end {
                let most = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
                match file.read_at(&mut buffer[..most], at) {
                    // Another process has truncated the file.
                    Ok(0) => break,
                    Ok(n) => {
                        hasher.update(&buffer[..n]);
                        at += n as u64;
                        seen(n as u64);
                    }
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(err),
                }
            }
            Ok(())
        }
    })?;
    Ok((hasher.content(), hasher.length()))
}

/// Copies the contents of `from` to the empty `to`. Holes stay holes. Returns `false` if the
/// contents do not have `size` bytes and the digest `content`. In this case, the copy must not be
/// used.
pub fn copy_content(from: &File, to: &File, size: u64, content: Content) -> io::Result<bool> {
    if from.metadata()?.len() != size {
        return Ok(false);
    }
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(BUFFER).min(BUFFER)];
    let mut end = 0;
    parts(from, |part| match part {
        Part::Hole(length) => {
            hasher.skip(length);
            Ok(())
        }
        Part::Data(range) => {
            let mut at = range.start;
            while at < range.end {
                let most = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
                match from.read_at(&mut buffer[..most], at) {
                    // Another process has truncated the file.
                    Ok(0) => break,
                    Ok(n) => {
                        hasher.update(&buffer[..n]);
                        fault::write_all_at(to, &buffer[..n], at)?;
                        at += n as u64;
                        end = at;
                    }
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(err),
                }
            }
            Ok(())
        }
    })?;
    if end < size {
        // If `from` ends in a hole, the last write to `to` ended before `size`.
        to.set_len(size)?;
    }
    Ok(hasher.length() == size && hasher.content() == content)
}

/// Returns `n` zeros. `n` is at most the length of a block.
fn zeros(n: u64) -> &'static [u8] {
    &ZEROS[..usize::try_from(n).expect("a block is short")]
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks begin with a byte that is not zero. The other blocks are checked in parts of
    // 1,024 bytes.
    bytes.first() == Some(&0)
        && bytes.chunks(1024).all(|some| some.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const SIZE: usize = 64 << 10;

    /// The digest of `bytes` that arrive in pieces of `piece` bytes. A piece of zeros arrives as a
    /// hole.
    fn in_pieces(bytes: &[u8], piece: usize) -> Content {
        let mut hasher = ContentHasher::default();
        for part in bytes.chunks(piece) {
            if part.iter().all(|byte| *byte == 0) {
                hasher.skip(part.len() as u64);
            } else {
                hasher.update(part);
            }
        }
        hasher.content()
    }

    #[test]
    fn digest_of_contents_without_zero_blocks_is_blake3() {
        for length in [0, 1, SIZE - 1, SIZE, 3 * SIZE + 7] {
            let bytes = vec![7; length];
            assert_eq!(Content::of(&bytes), Content(*blake3::hash(&bytes).as_bytes()), "{length}");
        }
        // These zeros are one byte short of a block.
        let mut bytes = vec![0; SIZE - 1];
        assert_eq!(Content::of(&bytes), Content(*blake3::hash(&bytes).as_bytes()));
        bytes.extend([1, 0, 0]);
        assert_eq!(Content::of(&bytes), Content(*blake3::hash(&bytes).as_bytes()));
    }

    #[test]
    fn digest_depends_only_on_the_contents() {
        let mut all = Vec::new();
        for (length, data) in [
            (SIZE, vec![]),
            (SIZE + 1, vec![]),
            (2 * SIZE, vec![]),
            (2 * SIZE, vec![SIZE]),
            (2 * SIZE, vec![SIZE - 1]),
            (5 * SIZE + 3, vec![0, 4 * SIZE]),
            (5 * SIZE + 3, vec![0, 3 * SIZE]),
            (5 * SIZE + 3, vec![5 * SIZE + 2]),
            (6 * SIZE, vec![0, 4 * SIZE]),
        ] {
            let mut bytes = vec![0; length];
            for at in &data {
                bytes[*at] = 1;
            }
            let whole = Content::of(&bytes);
            for piece in [1, 1000, SIZE / 2, SIZE, SIZE + 1, 10 * SIZE] {
                assert_eq!(in_pieces(&bytes, piece), whole, "{length} {data:?} by {piece}");
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(content_of(&file).unwrap(), (whole, length as u64));
            let sparse = tempfile::tempfile().unwrap();
            sparse.set_len(length as u64).unwrap();
            for at in &data {
                sparse.write_all_at(&[1], *at as u64).unwrap();
            }
            assert_eq!(content_of(&sparse).unwrap(), (whole, length as u64));
            all.push(whole);
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "different contents have the same digest");
    }

    #[test]
    fn holes_are_hashed_in_constant_time() {
        let mut hasher = ContentHasher::default();
        hasher.skip(1 << 60);
        hasher.update(b"end");
        let begun = std::time::Instant::now();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(content_of(&file).unwrap().1, 1 << 40);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        assert_eq!(hasher.length(), (1 << 60) + 3);
    }
}
