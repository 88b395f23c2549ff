//! Records which entries an unpack moves into an existing directory. If the unpack is killed, the
//! next unpack removes these entries.

use std::ffi::CStr;
use std::io::Read as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::disk::{Dir, TempFile, fault};
use crate::error::{Error, Result};
use crate::root::paths::c_name;

/// The record in the work directory. Each item is `INODE SECONDS.NANOSECONDS NAME`, and ends with a
/// NUL. The time is the file's time of birth.
const RECORD: &CStr = c"moved";

/// Records the entries of `root` before the caller moves them. The record is on the disk when the
/// function returns.
pub(super) fn record(work: &Arc<Dir>, root: &Dir) -> Result<()> {
    let mut record = Vec::new();
    for item in root.list()? {
        let Some(identity) = identity(root, &item.name)? else { continue };
        record.extend_from_slice(identity.as_bytes());
        record.push(b' ');
        record.extend_from_slice(item.name.to_bytes_with_nul());
    }
    let file = TempFile::create(work, "temp-moved")?;
    fault::write_all(file.file(), &record).map_err(|err| file.error("write", err))?;
    file.commit(work, RECORD)
}

/// Removes the record after the move is complete, so that no later unpack removes the moved
/// entries.
pub(super) fn forget(work: &Dir) -> Result<()> {
    work.remove_file(RECORD)?;
    work.sync()
}

/// Removes the entries that a killed unpack moved from its work directory `work` to `dir`. If
/// another program has created an entry of the same name in `dir`, this entry stays. If the
/// filesystem records no time of birth, all entries stay.
pub(super) fn remove(work: &Dir, dir: &Dir) -> Result<()> {
    let mut record = Vec::new();
    match work.open_file(RECORD) {
        Ok(mut file) => {
            let read = file.read_to_end(&mut record);
            read.map_err(|err| Error::io("read", work.path_of(RECORD), err))?;
        }
        Err(err) if err.is_not_found() => return Ok(()),
        Err(err) => return Err(err),
    }
    for item in record.split(|byte| *byte == 0) {
        let mut parts = item.splitn(3, |byte| *byte == b' ');
        let (Some(inode), Some(birth), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if !is_part(name) {
            continue;
        }
        let name = c_name(name)?;
        let recorded = [inode, b" ", birth].concat();
        if identity(dir, &name)?.is_some_and(|now| now.as_bytes() == recorded) {
            dir.remove_tree(&name)?;
        }
    }
    Ok(())
}

/// The inode and the time of birth of a file. These two values distinguish the file from another
/// file that later gets the same name. A rename changes neither value. `None` if the file is
/// missing, or if the system does not report the file's time of birth.
fn identity(dir: &Dir, name: &CStr) -> Result<Option<String>> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    match statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, wanted) {
        Ok(stat) => {
            let known = StatxFlags::from_bits_retain(stat.stx_mask);
            let birth = stat.stx_btime;
            let text = format!("{} {}.{}", stat.stx_ino, birth.tv_sec, birth.tv_nsec);
            Ok(known.contains(wanted).then_some(text))
        }
        Err(Errno::NOENT | Errno::NOSYS) => Ok(None),
        Err(err) => Err(Error::io("stat", dir.path_of(name), err)),
    }
}

/// Whether `name` is a valid name for a directory entry, and not a path.
fn is_part(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
}
