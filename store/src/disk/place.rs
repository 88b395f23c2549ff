//! Getting the contents of one open file into another.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// Makes `to` share the extents of `from` (`FICLONE`, see `ioctl_ficlone(2)`). `false` where
/// this pair of files cannot.
pub fn clone_contents(from: &File, to: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::PERM) => {
            Ok(false)
        }
        Err(err) => Err(err.into()),
    }
}

/// Copies the bytes of `from` to `to`, in the kernel where it can.
pub fn copy_contents(from: &File, to: &File) -> io::Result<u64> {
    io::copy(&mut &*from, &mut &*to)
}
