//! The emergency reserve: a file that the registry removes when the disk is full. The catalogue
//! then has room to record the removals of gc.

use std::ffi::CStr;

use deploy_store::disk::{Dir, fault};
use deploy_store::{Blobs, Error, Result};

/// Size of the reserve, in bytes.
const BYTES: usize = 1 << 20;
const NAME: &CStr = c"reserve";

/// Removes the reserve from the directory `top` if the disk is full. Returns whether the reserve
/// was removed.
pub(crate) fn release(top: &Dir, blobs: &Blobs) -> Result<bool> {
    if blobs.free_bytes()? >= BYTES as u64 || !top.contains(NAME)? {
        return Ok(false);
    }
    top.remove_file(NAME)?;
    Ok(true)
}

/// Makes the reserve in the directory `top`, if the disk has enough room.
pub(crate) fn make(top: &Dir, blobs: &Blobs) {
    if let Err(err) = try_make(top, blobs) {
        tracing::warn!("cannot make the emergency reserve: {err}");
    }
}

fn try_make(top: &Dir, blobs: &Blobs) -> Result<()> {
    let roomy = blobs.free_bytes()? > 4 * BYTES as u64;
    if roomy && !top.contains(NAME)? {
        let file = top.create_file(NAME, 0o600)?;
        fault::write_all(&file, &vec![1; BYTES]).map_err(|cause| Error::Io {
            action: "write",
            path: top.path_of(NAME),
            cause,
        })?;
    }
    Ok(())
}
