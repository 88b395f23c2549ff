//! Makes and releases the emergency reserve, which is a file of fixed size. If the disk is full,
//! the registry removes this file. The catalogue then has room to record what gc removes.

use std::ffi::CStr;

use deploy_store::disk::{Dir, fault};
use deploy_store::{Blobs, Error, Result};

/// The size of the reserve, in bytes.
const BYTES: usize = 1 << 20;
const NAME: &CStr = c"reserve";

/// Removes the reserve from the directory `top` if fewer than [`BYTES`] bytes are free. Returns
/// whether the function removed the reserve.
pub(crate) fn release(top: &Dir, blobs: &Blobs) -> Result<bool> {
    if blobs.free_bytes()? >= BYTES as u64 || !top.contains(NAME)? {
        return Ok(false);
    }
    top.remove_file(NAME)?;
    Ok(true)
}

/// Makes the reserve in the directory `top`, if more than four times the size of the reserve is
/// free.
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
