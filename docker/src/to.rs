//! Defines the destination of an import. Its modules implement two destinations: a directory, and a
//! registry over ssh.

pub mod directory;
#[cfg(feature = "program")]
pub mod remote_registry;

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Image, KnownLayer, Origin};

use crate::error::Result;

/// A destination of layers. A destination may also know the layers of earlier imports.
pub trait Destination {
    /// Checks that `layers` exist. The import puts these layers on top of the image's layers.
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()>;
    /// Finds the blobs that exist already for `origins`.
    fn known(&mut self, origins: &[Origin]) -> Result<Vec<KnownLayer>>;
    /// Begins the upload of a blob.
    fn begin(&mut self, component: &ComponentName) -> Result<()>;
    /// Adds bytes to the current upload.
    fn write(&mut self, bytes: Vec<u8>) -> Result<()>;
    /// Ends the current upload. `digest` is the digest of the uploaded blob.
    fn finish(&mut self, digest: Digest) -> Result<()>;
    /// Makes the configuration, in one transaction if the destination supports transactions. On a
    /// Go registry, a failed call may leave versions.
    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed>;
}

/// The result of [`Destination::commit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The import succeeded. The text is the answer of the destination.
    Done(String),
    /// The destination has lost blobs that it had announced or received. The text is the answer of
    /// the destination.
    Missing(String),
}
