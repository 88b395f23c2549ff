//! The only module that changes the filesystem: no other module creates, renames, links, unlinks or
//! syncs files.
//!
//! Operations on files are relative to an open directory ([`Dir`]) and take a single name. So below
//! the opened directory, no symlink can redirect such an operation. Paths from the command line,
//! for example in [`Dir::open`], may lead through symlinks.

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

/// Reads a file name as a digest. `None` if the name is not a digest.
pub(crate) fn digest_of(name: &CStr) -> Option<Digest> {
    name.to_str().ok()?.parse().ok()
}
