//! The registry: blobs and a catalogue of components, versions and configurations,
//! served over ssh and sftp.

pub mod catalog;
pub mod console;
pub mod diff;
pub mod gc;
pub mod janitor;
#[allow(clippy::module_inception)]
pub mod registry;
pub mod server;
pub mod staged;
pub mod stat;
pub mod transfers;
pub mod verify;
