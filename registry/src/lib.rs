//! The registry: blobs and a catalogue of components, versions and configurations,
//! served over ssh and sftp.

mod announced;
pub mod bolt;
pub mod caller;
pub mod catalog;
pub mod console;
pub mod diff;
mod find;
pub mod gc;
pub mod image;
pub mod import;
pub mod input;
pub mod janitor;
pub mod places;
pub mod put;
pub mod readers;
pub mod recent;
#[allow(clippy::module_inception)]
pub mod registry;
pub mod server;
pub mod staged;
pub mod stat;
pub mod transfers;
pub mod upload;
pub mod verify;
