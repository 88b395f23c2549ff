//! Where a file has data and where holes (lseek(2), `SEEK_DATA`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Bytes that are there, from where to where.
    Data(Range<u64>),
    /// So many zeros that take no room.
    Hole(u64),
}

/// Tells `each` of the parts of `file` from its start to its end.
pub fn parts(file: &File, mut each: impl FnMut(Part) -> io::Result<()>) -> io::Result<()> {
    let metadata = file.metadata()?;
    let length = metadata.len();
    // What takes as much room as it is long has no holes worth asking for.
    if metadata.blocks().saturating_mul(512) >= length {
        return if length > 0 { each(Part::Data(0..length)) } else { Ok(()) };
    }
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(length),
            Err(Errno::NXIO) => length,
            // The filesystem does not say.
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
