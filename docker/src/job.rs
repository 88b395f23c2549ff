//! The request of an import, and its events and result.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{ComponentName, ConfigurationName, Digest, Limits, Meter, VersionName};
use deploy_wire::image::Compression;

use crate::choose::Wanted;
use crate::error::Error;
use crate::read::cache::Cache;

/// The request.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of the archive.
    pub wanted: Wanted,
    /// Name of the configuration, and start of the components' names; `None`: the image's own.
    pub name: Option<String>,
    /// Layers on top of the image's.
    pub layers: Vec<(ComponentName, VersionName)>,
    /// How blobs are compressed.
    pub compression: Compression,
    /// Whether to add a layer that says how the image is run.
    pub image_config: bool,
    /// Whether to report only what an import would do.
    pub dry_run: bool,
    /// Directory of the temporary file; `None`: the system's.
    pub tmpdir: Option<PathBuf>,
    /// Most bytes of the temporary file.
    pub max_temporary: u64,
    /// Bytes of the filesystem that the temporary file must leave free.
    pub min_free: u64,
    /// Limits on a layer.
    pub limits: Limits,
    /// Number of threads that compress.
    pub threads: usize,
    /// The cache of earlier imports.
    pub cache: Option<Cache>,
    /// Counts the progress of the import.
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

/// The input.
pub enum Source<'a> {
    /// A stream.
    Stream(&'a mut dyn Read),
    /// A directory, or a file.
    Path(&'a Path),
}

/// An event, for people.
#[derive(Debug)]
pub enum Event<'a> {
    /// A layer is being sent: its number among the layers to send, and the count of these layers.
    Sending(usize, usize, &'a ComponentName),
    /// The listings of layers cannot be cached.
    Forgotten(&'a Error),
    /// The transaction begins.
    Updating(&'a ConfigurationName),
}

/// The result, or with `dry_run` the result that an import would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The configuration.
    pub name: ConfigurationName,
    /// The layers from the image, lowest first.
    pub layers: Vec<Imported>,
    /// Layers of the image that keep no member.
    pub empty: usize,
    /// Bytes that were sent.
    pub sent: u64,
    /// The destination's answer to the transaction.
    pub said: String,
}

/// The result for one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The component.
    pub component: ComponentName,
    /// The blob; `None` if it would have to be made.
    pub hash: Option<Digest>,
    /// Length of the layer's tar, in bytes.
    pub tar_bytes: u64,
    /// Length of the layer's blob, in bytes, if known.
    pub blob_bytes: Option<u64>,
    /// Whether the blob existed before.
    pub reused: bool,
    /// Members that were left out because later layers remove them.
    pub removed: usize,
}
