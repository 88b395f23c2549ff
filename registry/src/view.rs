//! What clients see as files: paths, and what is at each path. It knows no protocol.

pub(crate) mod items;
pub(crate) mod lookup;
mod temporary_names;
pub(crate) mod view_path;
