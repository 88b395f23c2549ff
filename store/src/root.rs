//! Roots: trees merged from layers, and built as directories.

pub mod apply;
pub mod build;
pub mod check;
mod contents;
pub mod diff;
pub mod merge;
pub mod patch;
pub mod paths;
pub mod placer;
pub mod placing;
pub mod tree;
