//! Getting the contents of one open file into another.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use reflink_copy::ReflinkBlockBuilder;
use rustix::io::Errno;

use super::fault;

/// What became of a wish to share extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// They are shared.
    Whole,
    /// What is to be cloned is no file of that length.
    Another,
    /// This pair of files cannot.
    Cannot,
}

/// Makes the empty `to` share the extents of `from`, which has `size` bytes
/// (`FICLONERANGE`, see `ioctl_ficlonerange(2)`): the system refuses a range that ends
/// within the file's last block but not with the file.
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

/// Copies the bytes of `from`, which must be a file of `size` bytes, to `to`, in the
/// kernel where it can; `false` where it is another.
pub fn copy_contents(from: &File, to: &File, size: u64) -> io::Result<bool> {
    fault::step()?;
    Ok(is_file(from, size)? && io::copy(&mut &*from, &mut &*to)? == size)
}
