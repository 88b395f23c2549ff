//! Roots: trees merged from layers, and built as directories.

pub mod build;
pub mod merge;
pub mod place;
pub mod tree;
