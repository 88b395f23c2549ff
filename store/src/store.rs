//! An agent's directory: cached blobs, extracted layers, objects and roots.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::blobs::{Blobs, Swept};
use crate::config::Configuration;
use crate::digest::Digest;
use crate::error::Result;
use crate::limits::Limits;

/// How files get from the cache into a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMode {
    /// Reflink where the filesystem can, else hardlink, else copy.
    Auto,
    /// Share extents (copy on write); fail where that cannot be done.
    Reflink,
    /// Another name of the cached file; fail where that cannot be done.
    Hardlink,
    /// A copy of the bytes.
    Copy,
}

/// How a store works.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Limits on archives.
    pub limits: Limits,
    /// How files are placed.
    pub link: LinkMode,
    /// Largest blob, in bytes.
    pub max_blob: u64,
}

/// An agent's directory, held exclusively.
#[derive(Debug)]
pub struct Store {}

/// What extracting a layer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Entries of the archive.
    pub entries: u64,
    /// Regular files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose bytes were not in the cache before.
    pub new_objects: u64,
}

/// How many files were placed, by the way they were placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// By sharing extents.
    pub reflinked: u64,
    /// As another name of the cached file.
    pub hardlinked: u64,
    /// By copying bytes.
    pub copied: u64,
}

/// A published root.
#[derive(Debug, Clone)]
pub struct Root {
    /// The configuration's id.
    pub id: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was there already.
    pub reused: bool,
    /// What was placed to build it.
    pub placed: Placed,
}

impl Store {
    /// Locks and opens the store in `dir`, making what is missing and removing what a
    /// crash left half done.
    pub fn open(_dir: &Path, _options: Options) -> Result<Self> {
        unimplemented!()
    }

    /// The cached blobs.
    pub fn blobs(&self) -> &Blobs {
        unimplemented!()
    }

    /// Whether the layer is extracted, so that its blob is not needed.
    pub fn has_layer(&self, _digest: Digest) -> Result<bool> {
        unimplemented!()
    }

    /// Extracts the layer from its cached blob, unless it is extracted already
    /// (`None`). [`Error::NoSuchBlob`] when the blob is missing or its cached copy was
    /// damaged (the copy is then set aside): fetch it and call again.
    ///
    /// [`Error::NoSuchBlob`]: crate::Error::NoSuchBlob
    pub fn extract(&self, _digest: Digest) -> Result<Option<Extracted>> {
        unimplemented!()
    }

    /// Builds and publishes the root of `configuration`, whose layers are extracted;
    /// success at once if it is there. [`Error::NoSuchBlob`] when a layer has to be
    /// extracted again for a damaged object and its blob is gone: fetch it, call
    /// [`Store::extract`] and then this again.
    ///
    /// [`Error::NoSuchBlob`]: crate::Error::NoSuchBlob
    pub fn root(&self, _configuration: &Configuration) -> Result<Root> {
        unimplemented!()
    }

    /// Where the root of id `id` is or would be.
    pub fn root_path(&self, _id: Digest) -> PathBuf {
        unimplemented!()
    }

    /// Removes blobs, layers and objects that no configuration in `keep` uses and that
    /// were last written before `before`.
    pub fn sweep_cache(&self, _keep: &[&Configuration], _before: SystemTime) -> Result<Swept> {
        unimplemented!()
    }

    /// Removes published roots that are not in `keep`; `files` counts roots.
    pub fn sweep_roots(&self, _keep: &[Digest]) -> Result<Swept> {
        unimplemented!()
    }

    /// Published roots, oldest first.
    pub fn roots(&self) -> Result<Vec<Digest>> {
        unimplemented!()
    }

    /// The way files are placed here, as probed or forced; never `Auto`.
    pub fn link_mode(&self) -> LinkMode {
        unimplemented!()
    }
}

/// Merges local archives, lowest first, into the new directory `into`, using no cache
/// but a temporary one beside it.
pub fn unpack(_archives: &[PathBuf], _into: &Path, _options: Options) -> Result<Placed> {
    unimplemented!()
}

/// Reads a whole archive (gzip, zstd or plain tar) as an agent would unpack it, and
/// refuses it with the entry and the reason if an agent could not.
pub fn check_archive(_archive: impl std::io::Read, _limits: Limits) -> Result<Extracted> {
    unimplemented!()
}
