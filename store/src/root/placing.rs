//! How files are placed in a root, and what came of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::tree::{Node, Tree};
use crate::disk::Fresh;
use crate::layer::entry::EntryPath;
use crate::layer::objects::object_name::ObjectName;
use crate::layer::objects::reason::PrivateReason;
use crate::learned::Learned;
use crate::meta::Meta;
use crate::meter::Meter;
use crate::owners::Owners;
use crate::writable::Writable;

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

/// How files are placed.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Reflink, hardlink or copy.
    pub mode: LinkMode,
    /// Whether to fail rather than take another way for a file that cannot go this one.
    pub strict: bool,
    /// Whether owners are restored and devices made.
    pub owner: bool,
    /// What the system makes of new files where roots are built.
    pub fresh: Fresh,
    /// Files that are never hardlinked, because a service writes to them.
    pub writable: Writable,
    /// Files that are not hardlinked any more, because one did.
    pub learned: Arc<Learned>,
    /// Who owns files, whatever their archives say.
    pub owners: Owners,
    /// Counts the entries that are placed in new directories.
    pub meter: Arc<Meter>,
}

impl Placement {
    /// Whether any path can be private.
    pub fn may_have_private(&self) -> bool {
        !(self.writable.is_empty() && self.learned.is_empty())
    }

    /// Whether each root has a file of its own at `path`.
    pub fn is_private(&self, path: &EntryPath) -> bool {
        self.writable.has(path) || self.learned.has(path)
    }

    /// The files with several names, by their addresses, of which one is private in `tree`:
    /// what is written under one name shows under all.
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

/// What building a tree, or changing one, did.
#[derive(Debug, Default)]
pub struct Built {
    /// Files by the way they were placed.
    pub placed: Placed,
    /// Devices that could not be made for want of privilege.
    pub skipped: Vec<EntryPath>,
    /// Files that could become objects, so that the next root links them.
    pub twins: Vec<(ObjectName, EntryPath)>,
    /// Files whose objects were found changed, and are copies, with the reasons.
    pub changed: Vec<(EntryPath, PrivateReason)>,
    /// Those objects, with the sizes and what their inodes should carry.
    pub renew: Vec<(ObjectName, u64, Meta)>,
    /// Directories that were made in a root that was there.
    pub directories: Vec<EntryPath>,
}

/// How many files of a root have each object, by a hash of its name: two names with the
/// same one cost a copy. Where objects are hardlinked, a second file that equals one of the
/// root must not be linked to it.
#[derive(Debug, Default)]
pub struct Uses(HashMap<u32, u32>);

impl Uses {
    /// One file more; returns how many there were.
    pub(super) fn add(&mut self, object: &ObjectName) -> u32 {
        let count = self.0.entry(key(object)).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// How many files there are of it, or of objects that are taken for it.
    pub fn of(&self, object: &ObjectName) -> u32 {
        self.0.get(&key(object)).copied().unwrap_or(0)
    }

    /// One file less.
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
    // The upper half is the better mixed one.
    u32::try_from(object.hash() >> 32).expect("the shift leaves half")
}
