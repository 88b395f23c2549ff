//! Checks whether the contents of a file in the cache match the file's name.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Seek as _};

use crate::digest::{Digest, Hasher};
use crate::disk::{Dir, name_of};
use crate::error::{Error, Result, if_exists};
use crate::layer::content::content_of_seen;
use crate::layer::entry::Content;
use crate::meter::Meter;

/// The maximum length, in bytes, of a file that is hashed again if the first hash does not match
/// the file's name. The first hash skips blocks of zeros, and the second hash covers all bytes.
const MOST_PLAIN: u64 = 1 << 30;

/// Returns whether an object's contents match its name, and the length of the contents. `None` if
/// the object is missing.
pub(in crate::store) fn object_is_sound(
    dir: &Dir,
    name: &CStr,
    meter: &Meter,
) -> Result<Option<(bool, u64)>> {
    let file = match if_exists(dir.open_file(name)) {
        Ok(None) => return Ok(None),
        Ok(Some(file)) => file,
        Err(Error::Corrupt { .. }) => return Ok(Some((false, 0))),
        Err(err) => return Err(err),
    };
    let fail = |err| Error::io("read", dir.path_of(name), err);
    let (content, bytes) = content_of_seen(&file, |n| meter.add(n)).map_err(fail)?;
    let named = |content: Content| name.to_bytes().starts_with(content.to_string().as_bytes());
    // In an earlier version, the name of a file with blocks of zeros was the hash of all its bytes.
    // If hashing all bytes would take too long, the file counts as damaged, and is made again.
    let earlier = || match bytes {
        ..=MOST_PLAIN => plain_content_of(&file).map(named),
        _ => Ok(false),
    };
    let sound = named(content) || earlier().map_err(fail)?;
    Ok(Some((sound, bytes)))
}

/// Whether a blob's contents match its name. `None` if the file is missing.
pub(in crate::store) fn blob_is_sound(
    dir: &Dir,
    digest: Digest,
    meter: &Meter,
) -> Result<Option<bool>> {
    let name = name_of(digest);
    let mut file = match if_exists(dir.open_file(&name)) {
        Ok(None) => return Ok(None),
        Ok(Some(file)) => file,
        Err(Error::Corrupt { .. }) => return Ok(Some(false)),
        Err(err) => return Err(err),
    };
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(hasher.finish() == digest)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                meter.add(n as u64);
            }
            Err(err) => return Err(Error::io("read", dir.path_of(&name), err)),
        }
    }
}

/// The BLAKE3 hash of all bytes of a file.
fn plain_content_of(mut file: &File) -> std::io::Result<Content> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    file.rewind()?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Content(*hasher.finalize().as_bytes())),
            n => hasher.update(&buffer[..n]),
        };
    }
}
