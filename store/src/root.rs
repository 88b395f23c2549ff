//! Merges layers into trees, and builds roots from trees.

pub mod apply;
pub mod build;
pub mod check;
pub mod diff;
pub mod merge;
pub mod patch;
pub mod paths;
mod place_file;
pub mod placer;
pub mod placing;
pub mod tree;
