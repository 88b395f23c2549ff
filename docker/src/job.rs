//! Defines the request, the events and the result of an import.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{ComponentName, ConfigurationName, Digest, Limits, Meter, VersionName};
use deploy_wire::image::Compression;

use crate::choose::Wanted;
use crate::error::Error;
use crate::read::cache::Cache;

/// The request for an import.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image to import, if the archive has several images.
    pub wanted: Wanted,
    /// The name of the configuration. The components' names begin with the same name. `None` stands
    /// for the name of the image.
    pub name: Option<String>,
    /// Existing layers to put on top of the image's layers.
    pub layers: Vec<(ComponentName, VersionName)>,
    /// The compression format of the blobs.
    pub compression: Compression,
    /// Whether to add a layer with a file that states how to run the image.
    pub image_config: bool,
    /// Whether to report only what the import would do, and to change nothing.
    pub dry_run: bool,
    /// The directory of the temporary files. `None` stands for the system's directory for such
    /// files.
    pub tmpdir: Option<PathBuf>,
    /// The maximum number of bytes in all temporary files together.
    pub max_temporary: u64,
    /// The number of bytes that the temporary files must leave free on the filesystem.
    pub min_free: u64,
    /// The limits for reading the input and its layers.
    pub limits: Limits,
    /// The number of threads that compress blobs.
    pub threads: usize,
    /// The cache of listings from earlier imports; `None` for no cache.
    pub cache: Option<Cache>,
    /// The counter of the import's progress.
    pub meter: Arc<Meter>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            name: None,
            layers: Vec::new(),
            compression: Compression::default(),
            image_config: false,
            dry_run: false,
            tmpdir: None,
            max_temporary: u64::MAX,
            min_free: 0,
            limits: Limits::STANDARD,
            threads: 1,
            cache: None,
            meter: Arc::default(),
        }
    }
}

/// The input of an import.
pub enum Source<'a> {
    /// A stream.
    Stream(&'a mut dyn Read),
    /// A file or a directory.
    Path(&'a Path),
}

/// An event of an import, to be shown to the user.
#[derive(Debug)]
pub enum Event<'a> {
    /// A layer is being sent. The values are the layer's number from 1 among the layers to send,
    /// the number of layers to send, and the layer's component.
    Sending(usize, usize, &'a ComponentName),
    /// The listings of layers cannot be written to the cache.
    Forgotten(&'a Error),
    /// The transaction that makes this configuration begins.
    Updating(&'a ConfigurationName),
}

/// The result of an import. With `dry_run`, this is the result that the import would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The name of the configuration.
    pub name: ConfigurationName,
    /// The layers that the import makes, lowest first.
    pub layers: Vec<Imported>,
    /// The number of the image's layers that keep no member.
    pub empty: usize,
    /// The number of bytes of blobs that were sent.
    pub sent: u64,
    /// The destination's answer to the transaction; empty in a dry run.
    pub said: String,
}

/// The result for one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The component that the layer becomes.
    pub component: ComponentName,
    /// The digest of the blob; `None` if the blob is not made yet.
    pub hash: Option<Digest>,
    /// The length of the layer's tar in bytes.
    pub tar_bytes: u64,
    /// The length of the layer's blob in bytes, if this length is known.
    pub blob_bytes: Option<u64>,
    /// Whether the destination had the blob before the import.
    pub reused: bool,
    /// The number of members that were left out because later layers remove them.
    pub removed: usize,
}
