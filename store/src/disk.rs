//! The filesystem, and the only place that changes it: nothing outside this
//! module creates, renames, links, unlinks or syncs.
//!
//! Every operation is relative to an open directory ([`Dir`]) and takes a single
//! name, never a path, so nothing here can be led outside by a symlink.

mod dir;
mod file;
mod lock;

pub use dir::{Dir, FileType, Item};
pub(crate) use file::is_held;
pub use file::{TempFile, replace_file};
pub use lock::Lock;
