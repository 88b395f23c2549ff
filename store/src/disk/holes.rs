//! Finds the data and the holes of a file with lseek(2) (`SEEK_DATA`, `SEEK_HOLE`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A part of a file that is either data or a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Data in this range of offsets.
    Data(Range<u64>),
    /// A hole of this length in bytes. A hole consists of zeros that take no space on the disk.
    Hole(u64),
}

/// Calls `each` for each part of `file`, from start to end.
pub fn parts(file: &File, mut each: impl FnMut(Part) -> io::Result<()>) -> io::Result<()> {
    let metadata = file.metadata()?;
    let length = metadata.len();
    // A file whose allocated blocks cover its whole length has no holes.
    if metadata.blocks().saturating_mul(512) >= length {
        return if length > 0 { each(Part::Data(0..length)) } else { Ok(()) };
    }
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(length),
            Err(Errno::NXIO) => length,
            // The filesystem does not report its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return each(Part::Data(at..length)),
            Err(err) => return Err(err.into()),
        };
        if data > at {
            each(Part::Hole(data - at))?;
        }
        if data == length {
            break;
        }
        at = seek(file, SeekFrom::Hole(data))?.clamp(data + 1, length);
        each(Part::Data(data..at))?;
    }
    Ok(())
}
