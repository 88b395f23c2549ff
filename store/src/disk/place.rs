//! Copies or clones the contents of one open file into another.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use reflink_copy::ReflinkBlockBuilder;
use rustix::fs::copy_file_range;
use rustix::io::Errno;

use super::fault;
use super::holes::{Part, parts};

/// The maximum number of bytes that one call of `copy_file_range` is asked to copy.
const MOST: usize = 1 << 30;
/// The size in bytes of the buffer for a copy without `copy_file_range`.
const BUFFER: usize = 256 << 10;

/// The result of an attempt to share extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// The extents are shared.
    Whole,
    /// The source is not a regular file of the stated length.
    Another,
    /// The two files cannot share extents.
    Cannot,
}

/// Makes the empty file `to` share the extents of `from` (`FICLONERANGE`, see
/// `ioctl_ficlonerange(2)`). `size` must be the length of `from`, because the system refuses a
/// range that ends inside a block before the end of the file.
pub fn clone_contents(from: &File, to: &File, size: u64) -> io::Result<Cloned> {
    let Some(length) = NonZeroU64::new(size) else { return Ok(Cloned::Whole) };
    fault::step()?;
    let Err(err) = ReflinkBlockBuilder::new(from, to, length).reflink_block() else {
        return Ok(Cloned::Whole);
    };
    match Errno::from_io_error(&err) {
        Some(Errno::INVAL | Errno::ISDIR) if !is_file(from, size)? => Ok(Cloned::Another),
        Some(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::PERM) => {
            Ok(Cloned::Cannot)
        }
        _ => Err(err),
    }
}

fn is_file(file: &File, size: u64) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.len() == size)
}

/// Copies the bytes of `from` to the empty `to`, in the kernel if possible. Returns `false` if
/// `from` is not a regular file of `size` bytes. Holes stay holes.
pub fn copy_contents(from: &File, to: &File, size: u64) -> io::Result<bool> {
    fault::step()?;
    if !is_file(from, size)? {
        return Ok(false);
    }
    if from.metadata()?.blocks().saturating_mul(512) >= size {
        return Ok(io::copy(&mut &*from, &mut &*to)? == size);
    }
    let (mut end, mut whole) = (0, true);
    parts(from, |part| match part {
        Part::Hole(length) => {
            end += length;
            Ok(())
        }
        Part::Data(range) => {
            end = range.end;
            whole &= copy_range(from, to, range)?;
            Ok(())
        }
    })?;
    // If `from` ends in a hole, the last write to `to` ended before `size`.
    to.set_len(size)?;
    Ok(whole && end == size)
}

/// Copies `range` of `from` to the same range of `to`. Returns `false` if `from` ends before the
/// end of the range.
fn copy_range(from: &File, to: &File, range: Range<u64>) -> io::Result<bool> {
    let (mut read, mut written) = (range.start, range.start);
    while read < range.end {
        let most = usize::try_from(range.end - read).unwrap_or(usize::MAX).min(MOST);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_hand(from, to, read..range.end);
            }
            Err(err) => return Err(err.into()),
        }
    }
    Ok(true)
}

fn copy_by_hand(from: &File, to: &File, range: Range<u64>) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        let most = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        match from.read_at(&mut buffer[..most], at) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                to.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_keeps_bytes_and_holes() {
        const SIZE: u64 = 8 << 20;
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(SIZE).unwrap();
        from.write_all_at(b"start", 0).unwrap();
        from.write_all_at(b"middle", 5_000_000).unwrap();
        assert!(copy_contents(&from, &to, SIZE).unwrap());
        let mut bytes = vec![1; usize::try_from(SIZE).unwrap()];
        to.read_exact_at(&mut bytes, 0).unwrap();
        let mut expected = vec![0; bytes.len()];
        expected[..5].copy_from_slice(b"start");
        expected[5_000_000..5_000_006].copy_from_slice(b"middle");
        assert!(bytes == expected);
        assert_eq!(to.metadata().unwrap().len(), SIZE);
        assert!(to.metadata().unwrap().blocks() * 512 < SIZE / 2, "the holes were filled");
        assert!(!copy_contents(&from, &to, SIZE - 1).unwrap());
        // Copy the file once more, this time without the kernel's copy call.
        let by_hand = tempfile::tempfile().unwrap();
        assert!(copy_by_hand(&from, &by_hand, 0..SIZE).unwrap());
        by_hand.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
        assert!(!copy_by_hand(&from, &by_hand, 0..SIZE + 1).unwrap());
    }
}
