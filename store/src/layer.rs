//! Layers: what an archive becomes. An archive is decoded once into an
//! [`Index`](index::Index) (its entries) and objects (the contents of its files).

pub mod acl;
pub mod archive;
pub mod batch;
pub mod content;
pub mod decode;
pub mod entries;
pub mod entry;
pub mod foreign;
pub mod gzip;
pub mod header;
pub mod index;
pub mod object_name;
pub mod objects;
pub mod pax;
pub mod pipe;
pub mod pipeline;
pub mod seals;
pub mod sparse;
pub mod tarball;
pub mod trailing;
pub mod writers;
pub mod zstd;
