//! Makes layers from archives. An archive is decoded once into an [`Index`](index::Index) (its
//! entries) and objects (the contents of its files).

pub mod archive;
pub mod content;
pub mod decode;
pub mod entry;
pub mod index;
pub mod objects;
pub mod pipe;
pub mod pipeline;
pub mod tar;
