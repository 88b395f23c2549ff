//! How files are placed in a root, and the result.

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

/// The way in which files get from the cache into a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMode {
    /// Reflink if the filesystem can, else hardlink, else copy.
    Auto,
    /// Sharing of extents (copy on write); it is an error if that is impossible.
    Reflink,
    /// Another name of the cached file; it is an error if that is impossible.
    Hardlink,
    /// A copy of the bytes.
    Copy,
}

/// The settings for placing files.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Reflink, hardlink or copy.
    pub mode: LinkMode,
    /// Whether to fail if a file cannot be placed in this way, instead of trying another way.
    pub strict: bool,
    /// Whether owners are restored and devices made.
    pub owner: bool,
    /// The metadata that the system gives to new files where roots are built.
    pub fresh: Fresh,
    /// Files that are never hardlinked, because a service writes to them.
    pub writable: Writable,
    /// Files that are not hardlinked any more, because they were found changed.
    pub learned: Arc<Learned>,
    /// Owners that override the archives.
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

    /// The addresses of files with several names that have a private name in `tree`: a write to one
    /// name shows under all names.
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

/// Number of files by the way they were placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Files placed by sharing extents.
    pub reflinked: u64,
    /// Files placed as another name of the cached file.
    pub hardlinked: u64,
    /// Files placed by copying bytes.
    pub copied: u64,
}

/// The result of building or changing a tree.
#[derive(Debug, Default)]
pub struct Built {
    /// Number of files by the way they were placed.
    pub placed: Placed,
    /// Devices that could not be created without privileges.
    pub skipped: Vec<EntryPath>,
    /// Files that could become objects, so that the next root can link them.
    pub twins: Vec<(ObjectName, EntryPath)>,
    /// Files that were copied because their objects were found changed, with the reasons.
    pub changed: Vec<(EntryPath, PrivateReason)>,
    /// The objects to renew, with their sizes and wanted metadata.
    pub renew: Vec<(ObjectName, u64, Meta)>,
    /// Directories that were created in an existing root.
    pub directories: Vec<EntryPath>,
}

/// Number of files in a root for each object, by a hash of its name: a collision costs a copy. If
/// objects are hardlinked, a second equal file of one root must not be linked to the same object.
#[derive(Debug, Default)]
pub struct Uses(HashMap<u32, u32>);

impl Uses {
    /// Adds a file; returns the earlier number of files of the object.
    pub(super) fn add(&mut self, object: &ObjectName) -> u32 {
        let count = self.0.entry(key(object)).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// Number of files of the object, collisions included.
    pub fn of(&self, object: &ObjectName) -> u32 {
        self.0.get(&key(object)).copied().unwrap_or(0)
    }

    /// Removes a file.
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
    // The upper half of the hash is mixed better.
    u32::try_from(object.hash() >> 32).expect("the shift leaves half")
}
