//! Defines the settings for placing files in a root, and the results.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::tree::{Node, Tree};
use crate::disk::Fresh;
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::layer::objects::object_name::ObjectName;
use crate::layer::objects::reason::PrivateReason;
use crate::learned::Learned;
use crate::meter::Meter;
use crate::owners::Owners;
use crate::writable::Writable;

/// The link mode: the way in which files get from the cache into a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMode {
    /// The best mode that works: reflinks, or else hardlinks, or else copies.
    Auto,
    /// Reflinks: the file shares extents with the object (copy on write). If this mode is forced,
    /// placing fails on a filesystem without reflinks.
    Reflink,
    /// Hardlinks: the file is another name of the object. If this mode is forced, placing fails on
    /// a filesystem without hardlinks.
    Hardlink,
    /// Copies of the bytes.
    Copy,
}

/// The settings for placing files.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The link mode: reflink, hardlink or copy.
    pub mode: LinkMode,
    /// Whether placing fails if a file cannot be placed in the way that `mode` states. If `strict`
    /// is not set, the placer tries another way.
    pub strict: bool,
    /// Whether owners are restored and devices are made.
    pub owner: bool,
    /// The metadata that the system gives to new files in the directory in which roots are built.
    pub fresh: Fresh,
    /// The patterns for files that are never hardlinked, because a service writes to these files.
    pub writable: Writable,
    /// The private paths. The files at these paths are no longer hardlinked.
    pub learned: Arc<Learned>,
    /// The rules that override the owners in the archives.
    pub owners: Owners,
    /// Counts the entries that are placed in new directories.
    pub meter: Arc<Meter>,
}

impl Placement {
    /// Whether any path can be private.
    pub fn may_have_private(&self) -> bool {
        !(self.writable.is_empty() && self.learned.is_empty())
    }

    /// Whether each root has its own copy of the file at `path`.
    pub fn is_private(&self, path: &EntryPath) -> bool {
        self.writable.has(path) || self.learned.has(path)
    }

    /// The addresses of the files that have several names in `tree`, at least one of which is
    /// private. A write through one name is visible under all names.
    pub(super) fn private_groups(&self, tree: &Tree) -> HashSet<usize> {
        if self.mode != LinkMode::Hardlink || !self.may_have_private() {
            return HashSet::new();
        }
        let linked = tree.walk().filter_map(|(path, node)| match node {
            Node::File(file) if file.is_linked() => Some((path, Arc::as_ptr(file).addr())),
            _ => None,
        });
        linked.filter(|(path, _)| self.is_private(path)).map(|(_, file)| file).collect()
    }
}

/// The number of files that were placed in each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// The number of files that share extents with an object.
    pub reflinked: u64,
    /// The number of files that are hardlinks to an object.
    pub hardlinked: u64,
    /// The number of files whose bytes were copied.
    pub copied: u64,
}

/// The result of building or changing a root.
#[derive(Debug, Default)]
pub struct Built {
    /// The number of files that were placed in each way.
    pub placed: Placed,
    /// The paths of the devices that could not be created without privileges.
    pub skipped: Vec<EntryPath>,
    /// The files that can become objects, so that the next root can link to them.
    pub twins: Vec<(ObjectName, EntryPath)>,
    /// The files that were copied because their objects were found changed, with the reasons.
    pub changed: Vec<(EntryPath, PrivateReason)>,
    /// The objects that must get new inodes, with the size in bytes and the metadata that each
    /// object must have.
    pub renew: Vec<(ObjectName, u64, Meta)>,
    /// The paths of the directories that were created in an existing root.
    pub directories: Vec<EntryPath>,
}

/// The number of files in a root that use each object. With hardlinks, two equal files of one root
/// must not be linked to the same object. The key is a hash of the object's name. If two names have
/// the same hash, a file may be copied instead of linked.
#[derive(Debug, Default)]
pub struct Uses(HashMap<u32, u32>);

impl Uses {
    /// Counts one more file that uses the object. Returns the number of files that already used the
    /// object.
    pub(super) fn add(&mut self, object: &ObjectName) -> u32 {
        let count = self.0.entry(key(object)).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// The number of files that use the object or another object with the same hash.
    pub fn of(&self, object: &ObjectName) -> u32 {
        self.0.get(&key(object)).copied().unwrap_or(0)
    }

    /// Records that one file no longer uses the object.
    pub fn remove(&mut self, object: &ObjectName) {
        if let Some(count) = self.0.get_mut(&key(object)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key(object));
            }
        }
    }
}

fn key(object: &ObjectName) -> u32 {
    // The upper half of this hash has the better distribution.
    u32::try_from(object.hash() >> 32).expect("the shift leaves half")
}
