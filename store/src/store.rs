//! An agent's directory: cached blobs, extracted layers, objects and roots.
//!
//! ```text
//! DIR/                  locked while an agent runs
//!   cache/<digest>      blobs
//!   partial/            blobs on their way here
//!   layers/<digest>     index of an extracted layer: all its objects are there
//!   objects/ab/…        contents of files
//!   unpacked/<id>/      published roots; <id>.ok beside each, for the Go agent
//!   roots/<id>          the configuration a root was built from: it is ours
//!   quarantine/         what was found damaged, to be looked at
//! ```

mod adopt;
mod changed;
mod extract;
mod outline;
mod pending;
mod plan;
mod publish;
mod repair;
mod reuse;
mod spare;
mod sweep;
mod unpack;
mod verify;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::blobs::Blobs;
use crate::digest::Digest;
use crate::disk::{Dir, Lock, name_of};
use crate::error::Result;
use crate::layer::objects::{Naming, Objects};
use crate::limits::Limits;
use crate::root::place::Placement;
use crate::writable::{self, Writable};
use pending::Pending;
use plan::Plan;
use spare::Spare;
use watch::Watched;

pub use changed::{Changed, How, changed_files};
pub use extract::check_archive;
pub use publish::listed;
pub use repair::Aside;
pub use spare::SpareOutcome;
pub use sweep::{Ages, Keep, Kept, Removal, Sweep, What, layer_bytes, sweep_alone, taken_over};
pub use unpack::unpack;
pub use verify::{Finding, Verified, verify, verify_cache, verify_roots};

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
    /// Whether blobs stay in the cache when they are extracted. Without them damage is
    /// mended from the registry.
    pub keep_blobs: bool,
}

/// An agent's directory, held exclusively.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    limits: Limits,
    keep_blobs: bool,
    placement: Placement,
    blobs: Blobs,
    layers: Arc<Dir>,
    objects: Arc<Objects>,
    unpacked: Dir,
    roots: Arc<Dir>,
    quarantine: Dir,
    /// Whether cache and roots are on one filesystem.
    one_filesystem: bool,
    pending: Mutex<Vec<Pending>>,
    plan: Mutex<Plan>,
    spare: Mutex<Option<Spare>>,
    watched: Mutex<Watched>,
    _lock: Lock,
}

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
    /// Whether it was made of the spare.
    pub from_spare: bool,
    /// What was placed to build it.
    pub placed: Placed,
}

impl Store {
    /// Locks and opens the store in `dir`, making what is missing and removing what a
    /// crash left half done.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let top = Dir::open_or_create(dir, 0o755)?;
        let lock = Lock::take(dir)?;
        let blobs = Blobs::open_in(&top, c"cache", c"partial", options.max_blob)?;
        let unpacked = top.child_or_create(c"unpacked", 0o755)?;
        publish::clean_up(&unpacked)?;
        let placement = publish::placement(&top, &unpacked, options.link)?;
        let naming = match placement.mode {
            LinkMode::Hardlink => Naming::Inode { owner: placement.owner },
            LinkMode::Auto | LinkMode::Reflink | LinkMode::Copy => Naming::Contents,
        };
        let objects = Objects::open(&top, naming)?;
        let private = |name| top.child_or_create(name, 0o700);
        let store = Self {
            path: dir.to_owned(),
            limits: options.limits,
            keep_blobs: options.keep_blobs,
            placement,
            blobs,
            layers: private(c"layers")?.into(),
            objects: Arc::new(objects),
            one_filesystem: pending::is_one_filesystem(&top, &unpacked)?,
            pending: Mutex::default(),
            unpacked,
            roots: private(c"roots")?.into(),
            quarantine: private(c"quarantine")?,
            plan: Mutex::default(),
            spare: Mutex::default(),
            watched: Mutex::default(),
            _lock: lock,
        };
        store.clean_up_layers()?;
        store.blobs.clean_up()?;
        store.blobs.clean_up_after_go()?;
        Ok(store)
    }

    /// The cached blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Whether the layer is extracted, so that its blob is not needed.
    pub fn has_layer(&self, digest: Digest) -> Result<bool> {
        Ok(self.is_pending(digest) || self.layers.contains(&name_of(digest))?)
    }

    /// Where the root of id `id` is or would be.
    pub fn root_path(&self, id: Digest) -> PathBuf {
        self.path.join("unpacked").join(id.to_string())
    }

    /// Has roots that are built from now on have files of their own where a path is among
    /// `patterns` (see [`Writable`]), and leaves them to whoever opens the directory next.
    pub fn set_writable(&mut self, patterns: &[String]) -> Result<()> {
        self.placement.writable = Writable::new(patterns)?;
        writable::write(&self.path, patterns)
    }

    /// The way files are placed here, as probed or forced; never `Auto`.
    pub fn link_mode(&self) -> LinkMode {
        self.placement.mode
    }
}
