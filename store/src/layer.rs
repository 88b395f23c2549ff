//! Makes layers from archives. Each archive is decoded once. The entries of the archive become an
//! [`Index`](index::Index), and the contents of its files become objects.

pub mod archive;
pub mod content;
pub mod decode;
pub mod entry;
pub mod index;
pub mod objects;
pub mod pipe;
pub mod pipeline;
pub mod tar;
