//! Importer of container images: what `docker save`, podman, skopeo and buildah write becomes a
//! configuration. An image is read once ([`archive`]), one of those in it is chosen
//! ([`choose`]), whiteouts are resolved ([`plan`]), and what the registry does not have already
//! is packed again ([`repack`]), compressed ([`compress`]) and sent ([`send`]); [`import`] is all
//! of it.

mod error;

pub mod budget;
pub mod input;
pub mod listing;
pub mod spool;

pub mod archive;
pub mod cache;
pub mod layer;
pub mod manifest;

pub mod choose;
pub mod plan;

pub mod compress;
pub mod repack;
pub mod run;

pub mod foretell;
pub mod import;
pub mod into;
pub mod report;
pub mod send;

pub use error::{Error, Result};
