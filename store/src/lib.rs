//! Implements the content-addressed store of deploy-tools: blobs, layers, their merge, and roots.
//!
//! The store is synchronous. It does not use the network, and reads no command line or environment
//! variable. The store reads the clock for two purposes only: to date a staged blob, and to detect
//! that the clock was set back. ARCHITECTURE.md describes how data moves from an upload to a root.

mod size;

mod digest;
mod error;
mod meter;
mod name;

mod config;

pub mod disk;

mod inode_meta;
mod limits;

mod blobs;

pub mod layer;

mod learned;
mod owners;
mod writable;

pub mod root;

mod store;

pub use blobs::{BlobInfo, BlobWriter, Blobs, Swept};
pub use config::{Configuration, Layer, MAX_JSON, MAX_LAYERS};
pub use digest::{Digest, Hasher, HashingReader};
pub use disk::replace_file;
pub use error::{Error, Result};
pub use inode_meta::{Meta, Mtime, Xattr};
pub use layer::objects::reason::PrivateReason;
pub use learned::private_paths;
pub use limits::Limits;
pub use meter::{Meter, Reading, Unit};
pub use name::{ComponentName, ConfigurationName, MAX_NEW_NAME, VersionName, escape, escape_json};
pub use owners::OwnerRule;
pub use root::placing::{LinkMode, Placed};
pub use size::{Size, plural};
pub use store::{
    Ages, Aside, Changed, Drifted, Extracted, Finding, How, Keep, Kept, Options, Removal, Root,
    SpareOutcome, Store, Sweep, Verified, What, changed_files, check_archive, layer_bytes, listed,
    sweep_alone, taken_over, unpack, unpack_counted, verify, verify_cache, verify_roots,
};
pub use writable::Writable;
