//! Places the nodes of a tree in a directory. Files that are not empty come from objects, by
//! reflink, hardlink or copy; all other nodes are created. No other process can enter the directory
//! yet, and the tree has no path through a symlink. Each step opens one name and follows no
//! symlink.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::paths::{c_name, open_dir};
use super::placing::{Built, LinkMode, Placed, Placement, Uses};
use super::tree::{Directory, File, Node, Special, SpecialKind, Tree};
use crate::disk::{self, Dir, FileType};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;

/// The maximum number of nested directories that each thread has open. A process may usually have
/// 1,024 open files. With this maximum, more than half of the 1,024 files stay available for other
/// uses, even if the tree is deep.
const OPEN: usize = 100;

/// Mode bits that allow users other than the owner to write to a file.
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Places nodes in one root. Several threads may use the placer at the same time.
#[derive(Debug)]
pub struct Placer<'a> {
    pub(super) objects: &'a Objects,
    pub(super) placement: Placement,
    pub(super) root: &'a Dir,
    /// Whether the root was empty at the start. In such a root, the placer knows all equal files
    /// (twins).
    pub(super) fresh: bool,
    pub(super) counts: Counts,
    /// The path of the first name of each file that has several names. The key is the file's
    /// address in memory.
    pub(super) first: Mutex<HashMap<usize, EntryPath>>,
    /// The directories that were made and must still be filled.
    deep: Mutex<Vec<(EntryPath, &'a Directory)>>,
    /// The addresses of private files that have several names.
    pub(super) private: HashSet<usize>,
    found: Mutex<Found<'a>>,
}

/// The number of files that were placed in each way.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub reflinked: AtomicU64,
    pub hardlinked: AtomicU64,
    pub copied: AtomicU64,
}

/// Results that the placer collects while it places files.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub uses: &'a mut Uses,
    pub built: Built,
}

impl<'a> Placer<'a> {
    /// Creates a placer that places `tree` in the empty `root`.
    pub fn new(
        objects: &'a Objects,
        placement: Placement,
        root: &'a Dir,
        tree: &Tree,
        uses: &'a mut Uses,
    ) -> Self {
        let private = placement.private_groups(tree);
        let found = Mutex::new(Found { uses, built: Built::default() });
        let (counts, first, deep) = (Counts::default(), Mutex::default(), Mutex::default());
        Self { objects, placement, root, fresh: true, counts, first, deep, private, found }
    }

    /// Creates a placer that changes `root` to `tree`. For each object, `uses` has the number of
    /// files that use the object.
    pub fn changing(
        objects: &'a Objects,
        placement: Placement,
        root: &'a Dir,
        tree: &Tree,
        uses: &'a mut Uses,
    ) -> Self {
        Self { fresh: false, ..Self::new(objects, placement, root, tree, uses) }
    }

    /// Returns the results.
    pub fn finish(self) -> Built {
        let Counts { reflinked, hardlinked, copied } = self.counts;
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let placed = Placed {
            reflinked: reflinked.into_inner(),
            hardlinked: hardlinked.into_inner(),
            copied: copied.into_inner(),
        };
        Built { placed, ..found.built }
    }

    pub(super) fn found(&self) -> MutexGuard<'_, Found<'a>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the path of an existing name of a file. Other names of the file will be linked to
    /// this name.
    pub fn knows(&self, file: &Arc<File>, path: EntryPath) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.insert(Arc::as_ptr(file).addr(), path);
    }

    /// Places all entries of `directory` in the empty root. Within a rayon pool, the pool's threads
    /// fill the directories.
    pub fn fill_root(&self, directory: &'a Directory) -> Result<()> {
        self.fill(self.root, &EntryPath::root(), directory)?;
        self.fill_deep()
    }

    /// Fills the deep directories, which were left for later.
    fn fill_deep(&self) -> Result<()> {
        let deep = || self.deep.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some((path, directory)) = deep().pop() else { return Ok(()) };
            let dir = open_dir(self.root, &path)?;
            let dir = dir.as_ref().unwrap_or(self.root);
            self.fill(dir, &path, directory)?;
            self.finish_directory(dir, &directory.meta)?;
        }
    }

    /// Places all entries of `directory`, whose path is `path`, in the empty directory `into`.
    fn fill(&self, into: &Dir, path: &EntryPath, directory: &'a Directory) -> Result<()> {
        let mut below = Vec::new();
        for (name, node) in directory.iter() {
            match node {
                Node::Directory(directory) => below.push((name, directory)),
                // In a root that was not empty, a new directory may inherit metadata from an older
                // directory, and pass these metadata on to its entries. So entries count as fresh
                // only if the root was empty.
                leaf => self.place_leaf(into, path, name, leaf, self.fresh)?,
            }
        }
        // The meter is updated once for each directory. If each thread updated the meter for each
        // file, the threads would wait for each other.
        self.placement.meter.add(directory.count() as u64);
        let place = |(name, directory): &(&[u8], &'a Arc<Directory>)| {
            self.place_directory(into, path, name, directory)
        };
        if below.len() > 1 && rayon::current_thread_index().is_some() {
            below.par_iter().try_for_each(place)
        } else {
            below.iter().try_for_each(place)
        }
    }

    /// Places `node` as `name` in `into`, whose path is `parent`.
    pub fn place(&self, into: &Dir, parent: &EntryPath, name: &[u8], node: &'a Node) -> Result<()> {
        match node {
            Node::Directory(directory) => {
                self.place_directory(into, parent, name, directory)?;
                self.fill_deep()
            }
            // In a root that was not empty, an older directory may pass its group on to the new
            // entry. So the entry counts as fresh only if the root was empty.
            leaf => self.place_leaf(into, parent, name, leaf, self.fresh),
        }
    }

    fn place_directory(
        &self,
        into: &Dir,
        parent: &EntryPath,
        name: &[u8],
        directory: &'a Directory,
    ) -> Result<()> {
        let (c_name, path) = (c_name(name)?, parent.join(name));
        if path.parts().count().is_multiple_of(OPEN) {
            // This directory is filled later, after the directories above have been closed.
            into.make_dir(&c_name, 0o700)?;
            if !self.fresh {
                self.found().built.directories.push(path.clone());
            }
            self.deep.lock().unwrap_or_else(PoisonError::into_inner).push((path, directory));
            return Ok(());
        }
        let meta = &directory.meta;
        let mode = match meta.mode & 0o777 {
            mode if self.fresh && mode & 0o700 == 0o700 => mode,
            // Other users have no access until the directory has its owner. The agent has access
            // until the directory is filled.
            _ => 0o700,
        };
        into.make_dir(&c_name, mode)?;
        let dir = into.child(&c_name)?;
        self.fill(&dir, &path, directory)?;
        self.finish_new(&dir, &|| dir.path().to_owned(), mode, meta, self.fresh)?;
        if !self.fresh {
            self.found().built.directories.push(path);
        }
        Ok(())
    }

    /// Completes the metadata of a file or directory that was created with `mode`. `fresh` states
    /// whether the root was empty at the start.
    pub(super) fn finish_new(
        &self,
        file: impl std::os::fd::AsFd,
        path: &dyn Fn() -> std::path::PathBuf,
        mode: u32,
        meta: &Meta,
        fresh: bool,
    ) -> Result<()> {
        if fresh {
            self.placement.fresh.finish(file, path, mode, meta, self.placement.owner)
        } else {
            disk::set_meta(&file, path, meta, self.placement.owner)?;
            disk::remove_inherited(&file, path, meta)
        }
    }

    /// Gives a directory its metadata, after all entries of the directory are placed.
    pub fn finish_directory(&self, dir: &Dir, meta: &Meta) -> Result<()> {
        disk::set_meta(dir, &|| dir.path().to_owned(), meta, self.placement.owner)
    }

    /// Records that `node` was removed from the root. A file with several names may still have
    /// another name in the root. So the file's object still counts as used, and a later equal file
    /// may be copied instead of linked.
    pub fn forget(&self, node: &Node) {
        match node {
            Node::Directory(directory) => directory.iter().for_each(|(_, node)| self.forget(node)),
            Node::File(file)
                if self.placement.mode == LinkMode::Hardlink
                    && file.size > 0
                    && !file.is_linked() =>
            {
                let object = self.objects.name(file.content, &file.meta, 0);
                self.found().uses.remove(&object);
            }
            _ => {}
        }
    }

    fn place_leaf(
        &self,
        into: &Dir,
        parent: &EntryPath,
        name: &[u8],
        leaf: &Node,
        fresh: bool,
    ) -> Result<()> {
        let c_name = &c_name(name)?;
        let path = || parent.join(name);
        match leaf {
            Node::File(file) => self.place_file(into, c_name, &path, file, fresh),
            Node::Symlink(link) => {
                into.symlink(&self::c_name(&link.target)?, c_name)?;
                let owner = self.placement.owner;
                let owner = owner && !(fresh && self.placement.fresh.owns(&link.meta));
                disk::set_meta_at(into, c_name, &link.meta, owner, false)
            }
            Node::Special(special) => self.place_special(into, c_name, &path, special),
            Node::Directory(_) => unreachable!("directories are not leaves"),
        }
    }

    fn place_special(
        &self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        Special { kind, meta }: &Special,
    ) -> Result<()> {
        let (kind, device) = match *kind {
            SpecialKind::Fifo => (FileType::Fifo, None),
            SpecialKind::CharDevice(device) => (FileType::CharacterDevice, Some(device)),
            SpecialKind::BlockDevice(device) => (FileType::BlockDevice, Some(device)),
        };
        if device.is_some() && !self.placement.owner {
            self.found().built.skipped.push(path());
            return Ok(());
        }
        let number = device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
        match into.make_node(name, kind, 0o600, number) {
            // The user is root but lacks the capability for devices, as in a container.
            Err(err) if device.is_some() && not_permitted(&err) => {
                self.found().built.skipped.push(path());
                return Ok(());
            }
            other => other?,
        }
        disk::set_meta_at(into, name, meta, self.placement.owner, true)
    }
}

fn not_permitted(err: &Error) -> bool {
    matches!(err, Error::Io { cause, .. }
        if cause.kind() == std::io::ErrorKind::PermissionDenied)
}
