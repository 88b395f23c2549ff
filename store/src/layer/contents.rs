//! What a file on the disk holds, and copying it with a look at it.

use std::fs::File;
use std::io::{self, Read};

use super::entry::Content;
use crate::disk::fault;

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// The contents of the open file from where it stands, and their length.
pub fn of(file: &File) -> io::Result<(Content, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        match read(file, &mut piece)? {
            0 => return Ok((Content(*hasher.finalize().as_bytes()), hasher.count())),
            n => hasher.update(&piece[..n]),
        };
    }
}

/// Copies the bytes of `from` to the empty `to`; whether they are those of `content`, of
/// `size` bytes. If not, what was written is of no use.
pub fn copy(from: &File, to: &File, size: u64, content: Content) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE) + 1)];
    loop {
        let n = read(from, &mut piece)?;
        if n == 0 {
            break;
        }
        hasher.update(&piece[..n]);
        if hasher.count() > size {
            return Ok(false);
        }
        fault::write_all(to, &piece[..n])?;
        // All there should be: the end need not be seen when the digest is right.
        if hasher.count() == size {
            break;
        }
    }
    Ok(hasher.count() == size && *hasher.finalize().as_bytes() == content.0)
}

fn read(mut file: &File, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(piece) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
