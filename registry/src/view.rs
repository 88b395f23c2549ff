//! Defines the files that clients see: the paths, and the contents at each path. The module does
//! not depend on a protocol.

pub(crate) mod items;
pub(crate) mod lookup;
mod temporary_names;
pub(crate) mod view_path;
