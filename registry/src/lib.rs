//! The registry. It stores blobs and a catalogue of components, versions and configurations, and
//! serves them over ssh and sftp. See ARCHITECTURE.md.

pub mod blob_store;
mod blocking;
pub mod bucket;
pub mod caller;
pub mod catalog;
pub mod console;
pub mod error;
pub mod event_program;
pub mod fleet;
pub mod free_space;
pub mod go_import;
pub mod http;
pub mod janitor;
pub mod migrate;
mod moved;
mod own_bucket;
mod own_catalogue;
#[allow(clippy::module_inception)]
pub mod registry;
mod reserve;
pub mod rollout_driver;
pub mod ssh;
pub mod stdin;
pub mod store_survey;
pub mod uploads;
pub mod verbs;
mod view;
