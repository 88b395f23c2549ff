//! The registry: blobs and a catalogue of components, versions and configurations,
//! served over ssh and sftp.

pub mod caller;
pub mod catalog;
pub mod console;
pub mod go_import;
pub mod janitor;
#[allow(clippy::module_inception)]
pub mod registry;
pub mod ssh;
pub mod stdin;
pub mod uploads;
pub mod verbs;
mod view;
