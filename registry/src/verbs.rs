//! The verbs that touch blobs and the catalogue, one a file.

pub mod add_image;
pub mod collect;
mod hash_lookup;
pub mod put;
pub mod stat;
pub mod state_diff;
pub mod verify_blobs;
