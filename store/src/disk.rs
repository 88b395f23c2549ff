//! Creates, renames, links and removes files. All other modules do this only through this module.
//!
//! An operation on a file is relative to an open directory ([`Dir`]) and takes a single name. So no
//! symlink below the open directory can redirect the operation. Paths from the command line, for
//! example in [`Dir::open`], may lead through symlinks.

mod attributes;
mod dir;
pub mod fault;
mod file;
mod fresh;
mod holes;
mod lease;
mod lock;
mod meta;
mod mounts;
mod place;
mod remove;
mod socket;

pub use attributes::{gives_lists, has_attributes};
pub use dir::{Dir, FileType, Item};
pub use file::{TempFile, replace_file};
pub(crate) use file::{hold, is_held, temp_name};
pub use fresh::Fresh;
pub use holes::{Part, parts};
pub use lease::{Writers, writers};
pub use lock::Lock;
pub use meta::{
    carries, has, may_be_used_like, remove_inherited, remove_other_attributes, set_meta,
    set_meta_at, set_times,
};
pub(crate) use meta::{set_mode, set_owner};
pub use mounts::Mounts;
pub use place::{Cloned, clone_contents, copy_contents};

use std::ffi::{CStr, CString};

use crate::digest::Digest;

/// The file name for `digest`.
pub(crate) fn name_of(digest: Digest) -> CString {
    CString::new(digest.to_string()).expect("hex has no NUL")
}

/// Reads a file name as a digest. Returns `None` if the name is not a digest.
pub(crate) fn digest_of(name: &CStr) -> Option<Digest> {
    name.to_str().ok()?.parse().ok()
}
