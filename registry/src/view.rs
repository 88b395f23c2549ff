//! What clients see as files: the paths, and what is at them.

pub(crate) mod items;
pub(crate) mod lookup;
mod temporary_names;
pub(crate) mod view_path;
