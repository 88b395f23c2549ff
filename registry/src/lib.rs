//! The registry: blobs and a catalogue of components, versions and configurations,
//! served over ssh and sftp.

pub mod catalog;
pub mod console;
pub mod janitor;
#[allow(clippy::module_inception)]
pub mod registry;
pub mod server;
