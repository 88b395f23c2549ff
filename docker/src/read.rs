//! Reads an image archive: its documents, and its layers with their contents.

pub mod budget;
pub mod input;
pub mod listing;
pub mod spool;

pub mod image_layer;

pub mod cache;
pub mod image_archive;
