//! Where an import goes: a directory, or a registry over ssh.

pub mod directory;
#[cfg(feature = "program")]
pub mod registry;

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::image::{Image, KnownLayer, Origin};

use crate::error::Result;

/// Where layers go, and who knows those of earlier imports.
pub trait Destination {
    /// Whether there are these layers, which go on top of the image's.
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()>;
    /// Those of `origins` that need not be made again.
    fn known(&mut self, origins: &[Origin]) -> Result<Vec<KnownLayer>>;
    /// A blob begins.
    fn begin(&mut self, component: &ComponentName) -> Result<()>;
    /// More of it.
    fn write(&mut self, bytes: Vec<u8>) -> Result<()>;
    /// It is whole.
    fn finish(&mut self, digest: Digest) -> Result<()>;
    /// Makes the configuration of it, all or nothing.
    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed>;
}

/// How the transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Well; what was said to it.
    Done(String),
    /// Blobs that were known, or sent, are not there any more; what was said to it.
    Missing(String),
}
