//! Manages an agent's directory: cached blobs, extracted layers, objects and roots.
//!
//! ```text
//! DIR/                  locked while an agent runs
//!   cache/<digest>      blobs
//!   partial/            downloads, until their layers are extracted or they are in the cache
//!   layers/<digest>     index of an extracted layer; all objects of the layer exist
//!   objects/ab/…        contents of files
//!   unpacked/<id>/      published roots; <id>.ok beside each, for the Go agent
//!   roots/<id>          record of a root: the configuration that it was built from
//!   quarantine/         damaged files, kept for inspection
//! ```

mod extract;
mod messages;
mod names;
mod publish;
mod records;
mod spare;
mod sweep;
mod unpack;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::blobs::Blobs;
use crate::digest::Digest;
use crate::disk::{Dir, Lock, name_of};
use crate::error::Result;
use crate::layer;
use crate::layer::index::entries::is_earlier;
use crate::layer::objects::Objects;
use crate::layer::objects::object_name::Naming;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::owners::{self, OwnerRule, Owners};
use crate::root::placing::{LinkMode, Placed, Placement};
use crate::writable::{self, Writable};
use extract::pending::{self, Pending};
use publish::trees::Trees;
use spare::Spare;
use spare::watched::Watched;
use sweep::leftovers;

pub use extract::check_archive;
pub use messages::listed;
pub use publish::reuse::Drifted;
pub use spare::SpareOutcome;
pub use sweep::{Ages, Keep, Kept, Removal, Sweep, What, layer_bytes, sweep_alone, taken_over};
pub use unpack::changed::{Changed, How, changed_files};
pub use unpack::{unpack, unpack_counted};
pub use verify::repair::Aside;
pub use verify::{Finding, Verified, verify, verify_cache, verify_roots};

/// The settings of a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Limits on archives.
    pub limits: Limits,
    /// The way in which files are placed in roots.
    pub link: LinkMode,
    /// The maximum size of a blob, in bytes.
    pub max_blob: u64,
    /// Whether blobs stay in the cache after their layers are extracted. If a blob does not stay,
    /// the agent must download the blob again to repair damage.
    pub keep_blobs: bool,
}

/// An agent's directory, locked against other processes.
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
    /// Whether the cache and the roots are on one filesystem.
    one_filesystem: bool,
    pending: Mutex<Vec<Pending>>,
    trees: Mutex<Trees>,
    spare: Mutex<Option<Spare>>,
    watched: Mutex<Watched>,
    /// The paths whose failed removal was already logged.
    told: Mutex<BTreeSet<PathBuf>>,
    _lock: Lock,
}

/// The result of extracting a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The number of entries in the archive. An entry for the root itself does not count.
    pub entries: u64,
    /// The number of regular files in the archive.
    pub files: u64,
    /// The total size of these files in bytes.
    pub bytes: u64,
    /// The number of objects that were added to the cache.
    pub new_objects: u64,
}

/// A published root.
#[derive(Debug, Clone)]
pub struct Root {
    /// The configuration's id.
    pub id: Digest,
    /// The path of the root.
    pub path: PathBuf,
    /// Whether the root existed already.
    pub reused: bool,
    /// Whether the root was made from the spare.
    pub from_spare: bool,
    /// The number of files of a new root that were placed in each way.
    pub placed: Placed,
    /// The path of the replaced root. The replaced root is kept, because a service may still run in
    /// the replaced root.
    pub replaced: Option<PathBuf>,
    /// The paths in the root that differ from the configuration. The root is used despite these
    /// differences.
    pub changed: Vec<String>,
}

impl Store {
    /// Locks and opens the store in `dir`. Creates missing directories, and removes unfinished work
    /// that a crash left. A leftover that cannot be removed stays, and the method logs its path.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let top = Dir::open_or_create(dir, 0o755)?;
        let lock = Lock::take(dir)?;
        let blobs = Blobs::open_in(&top, c"cache", c"partial", options.max_blob)?;
        let unpacked = top.child_or_create(c"unpacked", 0o755)?;
        let mut left = publish::clean_up(&top, &unpacked)?;
        let placement = publish::probe::placement(&top, &unpacked, options.link)?;
        let naming = match placement.mode {
            LinkMode::Hardlink => Naming::Inode { owner: placement.owner },
            LinkMode::Auto | LinkMode::Reflink | LinkMode::Copy => Naming::Contents,
        };
        let objects = Objects::open(&top, naming)?;
        left.extend(leftovers::remove_all(objects.dir(), &[layer::objects::UNFINISHED])?);
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
            trees: Mutex::default(),
            spare: Mutex::default(),
            watched: Mutex::default(),
            told: Mutex::default(),
            _lock: lock,
        };
        store.read_seals()?;
        left.extend(leftovers::remove_all(&store.layers, &["index-"])?);
        store.log_leftovers(left);
        store.watch_asides()?;
        store.blobs.clean_up()?;
        store.blobs.clean_up_after_go()?;
        Ok(store)
    }

    /// The cached blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Whether the layer is extracted. Only a repair needs the blob of an extracted layer.
    pub fn has_layer(&self, digest: Digest) -> Result<bool> {
        if self.is_pending(digest) {
            return Ok(true);
        }
        match self.layers.open_file(&name_of(digest)) {
            // If the index has an earlier format, the agent extracts the layer again.
            Ok(index) => Ok(!is_earlier(index)),
            Err(err) if err.is_not_found() => Ok(false),
            // A later read of the index reports the defect.
            Err(_) => self.layers.contains(&name_of(digest)),
        }
    }

    /// The path of the root `id`. The root need not exist.
    pub fn root_path(&self, id: Digest) -> PathBuf {
        self.path.join("unpacked").join(id.to_string())
    }

    /// From now on, new roots get their own copy of each file that matches `patterns` (see
    /// [`Writable`]). The patterns are also saved for the next program that opens the directory.
    pub fn set_writable(&mut self, patterns: &[String]) -> Result<()> {
        self.placement.writable = Writable::new(patterns)?;
        writable::write(&self.path, patterns)
    }

    /// From now on, new roots have the owners that `rules` state, if owners are restored. The rules
    /// are also saved for the next program that opens the directory.
    pub fn set_owners(&mut self, rules: &[OwnerRule]) -> Result<()> {
        self.placement.owners = Owners::new(rules)?;
        owners::write(&self.path, rules)
    }

    /// The meter for the progress of extracting layers, and of building and comparing roots.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.placement.meter
    }

    /// Whether owners are restored.
    pub fn restores_owners(&self) -> bool {
        self.placement.owner
    }

    /// The link mode of this store: the mode that the options force, or the mode that the probe
    /// found. The result is never `Auto`.
    pub fn link_mode(&self) -> LinkMode {
        self.placement.mode
    }
}
