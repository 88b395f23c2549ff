//! Describes the items of directories.

use deploy_store::{BlobInfo, Configuration};
use deploy_wire::path::encode;
use jiff::Timestamp;

/// One name in a directory.
#[derive(Debug)]
pub enum Item {
    /// A directory.
    Directory(String),
    /// A JSON document: a configuration, a state from a history, or the fleet of a configuration.
    Document {
        /// The file name.
        name: String,
        /// The size in bytes; 0 for a document of the fleet.
        size: u64,
        /// The time at which the state was made; the present for a document of the fleet.
        modified: Timestamp,
    },
    /// A blob.
    Blob(BlobInfo),
    /// A blob under the name of a version.
    Version {
        /// The file name.
        name: String,
        /// The size in bytes, or 0 if the blob is missing.
        size: u64,
        /// The time at which the version was made.
        created: Timestamp,
    },
    /// An upload that is not bound to a version.
    Upload {
        /// The file name.
        name: String,
        /// The size in bytes.
        size: u64,
        /// The time at which the upload was complete.
        time: Timestamp,
    },
}

impl Item {
    /// The directory for the component or configuration `name`.
    pub fn directory(name: &str) -> Self {
        Self::Directory(encode(name))
    }

    /// The document of a configuration.
    pub fn configuration(configuration: &Configuration) -> Self {
        Self::Document {
            name: format!("{}.json", configuration.name().as_str()),
            size: configuration.to_json().len() as u64,
            modified: configuration.modified(),
        }
    }

    /// The name that clients see.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(name)
            | Self::Document { name, .. }
            | Self::Version { name, .. }
            | Self::Upload { name, .. } => name.clone(),
            Self::Blob(info) => info.digest.to_string(),
        }
    }
}
