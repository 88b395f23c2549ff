//! Importer of container images: what `docker save`, podman, skopeo and buildah write becomes a
//! configuration. An image is read once ([`read`]), one of those in it is chosen
//! ([`choose`]), whiteouts are resolved ([`plan`]), and what the registry does not have already
//! is packed again, compressed and sent ([`send`]); [`import`] is all of it.

mod error;

pub mod read;

pub mod choose;
pub mod plan;

pub mod job;
pub mod to;

pub mod send;

pub mod import;
pub mod report;

pub use error::{Error, Result};
