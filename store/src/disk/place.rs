//! Getting the contents of one open file into another.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use reflink_copy::ReflinkBlockBuilder;
use rustix::io::Errno;

/// What became of a wish to share extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// They are shared.
    Whole,
    /// The file to be cloned is not as long as it should be.
    OtherLength,
    /// This pair of files cannot.
    Cannot,
}

/// Makes the empty `to` share the extents of `from`, which has `size` bytes
/// (`FICLONERANGE`, see `ioctl_ficlonerange(2)`): the system refuses a range that ends
/// within the file's last block but not with the file.
pub fn clone_contents(from: &File, to: &File, size: u64) -> io::Result<Cloned> {
    let Some(length) = NonZeroU64::new(size) else { return Ok(Cloned::Whole) };
    let Err(err) = ReflinkBlockBuilder::new(from, to, length).reflink_block() else {
        return Ok(Cloned::Whole);
    };
    match Errno::from_io_error(&err) {
        Some(Errno::INVAL) if from.metadata()?.len() != size => Ok(Cloned::OtherLength),
        Some(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::PERM) => {
            Ok(Cloned::Cannot)
        }
        _ => Err(err),
    }
}

/// Copies the bytes of `from` to `to`, in the kernel where it can.
pub fn copy_contents(from: &File, to: &File) -> io::Result<u64> {
    io::copy(&mut &*from, &mut &*to)
}
