//! The verbs that use blobs and the catalogue, and code that several verbs share. Every verb that
//! makes a version from a blob calls `bind`.

pub mod add_image;
pub(crate) mod add_version;
mod bind;
pub mod collect;
pub mod fleet_counts;
pub mod fleet_document;
pub mod fleet_overview;
pub mod fleet_status;
mod hash_lookup;
pub mod put;
mod registry_metrics;
pub mod rollout_census;
pub mod rollout_status;
pub mod rollouts;
pub mod stat;
pub mod state_diff;
mod survey_store;
mod take_back;
pub mod verify_blobs;
mod verify_objects;
pub mod wait_for;
pub mod why;
