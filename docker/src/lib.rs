//! Imports container images: makes a configuration from the output of `docker save`, podman, skopeo
//! or buildah. The importer reads the archive ([`read`]), chooses an image ([`choose`]), and
//! resolves whiteouts ([`plan`]). The importer then packs, compresses and sends the layers that the
//! registry does not have ([`send`]). [`import`] runs all of these steps. The importer usually
//! reads the archive only once.

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
