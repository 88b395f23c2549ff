//! The files that clients see: paths, and the contents of each path. This module knows no protocol.

pub(crate) mod items;
pub(crate) mod lookup;
mod temporary_names;
pub(crate) mod view_path;
