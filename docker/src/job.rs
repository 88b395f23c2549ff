//! What an import is asked for, and what it tells of itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::{ComponentName, ConfigurationName, Digest, Limits, Meter, VersionName};
use deploy_wire::image::Compression;

use crate::choose::Wanted;
use crate::error::Error;
use crate::read::cache::Cache;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of the archive.
    pub wanted: Wanted,
    /// Name of the configuration, and start of the components' names; the image's own without.
    pub name: Option<String>,
    /// Layers on top of the image's.
    pub layers: Vec<(ComponentName, VersionName)>,
    /// How blobs are compressed.
    pub compression: Compression,
    /// Whether the image's way to be run becomes a layer.
    pub image_config: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// Where the temporary file is; where such files go, without.
    pub tmpdir: Option<PathBuf>,
    /// Bytes that the temporary file may take.
    pub max_temporary: u64,
    /// Bytes of the filesystem that they leave free.
    pub min_free: u64,
    /// What a layer may not exceed.
    pub limits: Limits,
    /// Threads that compress.
    pub threads: usize,
    /// What earlier imports found.
    pub cache: Option<Cache>,
    /// Counts how far the import is.
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

/// Where the image comes from.
pub enum Source<'a> {
    /// A stream.
    Stream(&'a mut dyn Read),
    /// A directory, or a file.
    Path(&'a Path),
}

/// What happens, for people.
#[derive(Debug)]
pub enum Event<'a> {
    /// A layer that must be sent begins: its number among those, and how many there are.
    Sending(usize, usize, &'a ComponentName),
    /// What is in layers cannot be remembered.
    Forgotten(&'a Error),
    /// The transaction begins.
    Updating(&'a ConfigurationName),
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The configuration.
    pub name: ConfigurationName,
    /// Its layers from the image, lowest first.
    pub layers: Vec<Imported>,
    /// Layers of the image that nothing is left of.
    pub empty: usize,
    /// Bytes that were sent.
    pub sent: u64,
    /// What the transaction said.
    pub said: String,
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its component.
    pub component: ComponentName,
    /// Its blob; none where it would have to be made.
    pub hash: Option<Digest>,
    /// Length of its tar, in bytes.
    pub tar_bytes: u64,
    /// Length of its blob, in bytes, where that is known.
    pub blob_bytes: Option<u64>,
    /// Whether it was there before.
    pub reused: bool,
    /// Members that were left out because other layers remove them.
    pub removed: usize,
}
