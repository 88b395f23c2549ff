//! Destinations of an import: a directory, or a registry over ssh.

pub mod directory;
#[cfg(feature = "program")]
pub mod remote_registry;

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Image, KnownLayer, Origin};

use crate::error::Result;

/// A destination of layers, which also knows the layers of earlier imports.
pub trait Destination {
    /// Checks that `layers` exist. The import puts these layers on top of the image's layers.
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()>;
    /// Finds the blobs that exist already for `origins`.
    fn known(&mut self, origins: &[Origin]) -> Result<Vec<KnownLayer>>;
    /// Begins a blob.
    fn begin(&mut self, component: &ComponentName) -> Result<()>;
    /// Adds bytes to the blob.
    fn write(&mut self, bytes: Vec<u8>) -> Result<()>;
    /// Ends the blob.
    fn finish(&mut self, digest: Digest) -> Result<()>;
    /// Makes the configuration, in one transaction if the destination supports it. On a Go
    /// registry, a failure may leave versions.
    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed>;
}

/// The result of the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The import succeeded. The text is the answer of the destination.
    Done(String),
    /// Blobs that were known or sent have disappeared. The text is the answer of the destination.
    Missing(String),
}
