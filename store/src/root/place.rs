//! Places what a tree has in a directory: files from objects by reflink, hardlink or
//! copy, all else made. The directory is one that nobody else can enter yet, and the
//! tree has no path through a symlink: each step opens one name, not following.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File as OpenFile;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::tree::{Directory, File, Node, Special, SpecialKind};
use crate::disk::{self, Dir, FileType};
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::layer::objects::{ObjectName, Objects};
use crate::meta::Meta;
use crate::store::{LinkMode, Placed};

/// How files are placed.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// Reflink, hardlink or copy.
    pub mode: LinkMode,
    /// Whether to fail rather than take another way for a file that cannot go this one.
    pub strict: bool,
    /// Whether owners are restored and devices made.
    pub owner: bool,
}

/// How many files of a root have each object, by a hash of its name. Where objects are
/// hardlinked, a second file that equals one of the root must not be linked to it.
#[derive(Debug, Default)]
pub struct Uses(HashMap<u64, u32>);

impl Uses {
    /// One file more; returns how many there were.
    fn add(&mut self, object: &ObjectName) -> u32 {
        let count = self.0.entry(key(object)).or_insert(0);
        *count += 1;
        *count - 1
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

fn key(object: &ObjectName) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(object)
}

/// Places nodes in one root.
#[derive(Debug)]
pub struct Placer<'a> {
    objects: &'a Objects,
    placement: Placement,
    root: &'a Dir,
    uses: &'a mut Uses,
    /// Whether the root was empty, so that twins are used in the order of the tree.
    fresh: bool,
    /// Where the first name of a file with several is.
    first: HashMap<*const File, EntryPath>,
    /// Files by the way they were placed.
    pub placed: Placed,
    /// Devices that could not be made for want of privilege.
    pub skipped: Vec<EntryPath>,
    /// Files that could become objects, so that the next root links them.
    pub twins: Vec<(ObjectName, EntryPath)>,
    /// Directories that were made.
    pub directories: Vec<EntryPath>,
}

impl<'a> Placer<'a> {
    /// Places in `root`, which is empty.
    pub fn new(
        objects: &'a Objects,
        placement: Placement,
        root: &'a Dir,
        uses: &'a mut Uses,
    ) -> Self {
        Self {
            objects,
            placement,
            root,
            uses,
            fresh: true,
            first: HashMap::new(),
            placed: Placed::default(),
            skipped: Vec::new(),
            twins: Vec::new(),
            directories: Vec::new(),
        }
    }

    /// Changes `root`, of whose files `uses` tells.
    pub fn changing(
        objects: &'a Objects,
        placement: Placement,
        root: &'a Dir,
        uses: &'a mut Uses,
    ) -> Self {
        Self { fresh: false, ..Self::new(objects, placement, root, uses) }
    }

    /// Says where a name of a file is already, to which others are to be linked.
    pub fn knows(&mut self, file: &Arc<File>, path: EntryPath) {
        self.first.insert(Arc::as_ptr(file), path);
    }

    /// Places all that is in `directory`, whose path is `path`, in the empty `into`.
    pub fn fill(&mut self, into: &Dir, path: &EntryPath, directory: &Directory) -> Result<()> {
        for (name, node) in directory.iter() {
            self.place(into, path, name, node)?;
        }
        Ok(())
    }

    /// Places `node` as `name` in `into`, whose path is `parent`.
    pub fn place(
        &mut self,
        into: &Dir,
        parent: &EntryPath,
        name: &[u8],
        node: &Node,
    ) -> Result<()> {
        let name = &c_name(name)?;
        let path = || parent.join(name.to_bytes());
        match node {
            Node::Directory(directory) => {
                into.make_dir(name, 0o700)?;
                let made = into.child(name)?;
                self.directories.push(path());
                self.fill(&made, &path(), directory)?;
                self.finish_directory(&made, &directory.meta)
            }
            Node::File(file) => self.place_file(into, name, &path, file),
            Node::Symlink(link) => {
                let target = c_name(&link.target)?;
                into.symlink(&target, name)?;
                disk::set_meta_at(into, name, &link.meta, self.placement.owner, false)
            }
            Node::Special(special) => self.place_special(into, name, &path, special),
        }
    }

    /// Gives a directory what its inode carries, when all in it is placed.
    pub fn finish_directory(&self, dir: &Dir, meta: &Meta) -> Result<()> {
        disk::set_meta(dir, &|| dir.path().to_owned(), meta, self.placement.owner)
    }

    /// Takes note that `node` is no longer in the root. Of a file with several names this
    /// is not known: its object counts as used, which costs a copy some time.
    pub fn forget(&mut self, node: &Node) {
        match node {
            Node::Directory(directory) => directory.iter().for_each(|(_, node)| self.forget(node)),
            Node::File(file)
                if self.placement.mode == LinkMode::Hardlink
                    && file.size > 0
                    && !file.is_linked() =>
            {
                self.uses.remove(&self.objects.name(file.content, &file.meta, 0));
            }
            _ => {}
        }
    }

    fn place_file(
        &mut self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        file: &Arc<File>,
    ) -> Result<()> {
        if file.is_linked() {
            if let Some(first) = self.first.get(&Arc::as_ptr(file)) {
                let (dir, first) = open_parent(self.root, first)?;
                return dir.as_ref().unwrap_or(self.root).link(&first, into, name);
            }
            self.knows(file, path());
        }
        if file.size == 0 {
            let made = into.create_file(name, 0o600)?;
            return self.finish_file(into, &made, name, file);
        }
        let object = self.objects.name(file.content, &file.meta, 0);
        if self.placement.mode != LinkMode::Hardlink {
            return self.place_contents(into, name, file, &object);
        }
        let twin = self.uses.add(&object);
        self.place_link(into, name, path, file, &object, twin)
    }

    /// By hardlink, or by copy when the object is taken by an equal file of this root.
    fn place_link(
        &mut self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        file: &File,
        object: &ObjectName,
        twin: u32,
    ) -> Result<()> {
        if twin > 0 && !self.fresh {
            return self.place_contents(into, name, file, object);
        }
        let own = self.objects.name(file.content, &file.meta, twin);
        if self.objects.is_sound(&own, file.size, &file.meta)? {
            match self.objects.link_to(&own, into, name) {
                Ok(()) => {
                    self.placed.hardlinked += 1;
                    return Ok(());
                }
                Err(err) if self.placement.strict || !cannot_link(&err) => return Err(err),
                Err(_) => return self.place_contents(into, name, file, &own),
            }
        }
        if twin == 0 {
            return Err(damaged(self.objects, &own));
        }
        self.objects.remove(&own)?;
        self.place_contents(into, name, file, object)?;
        self.twins.push((own, path()));
        Ok(())
    }

    /// By reflink or copy of the object's contents.
    fn place_contents(
        &mut self,
        into: &Dir,
        name: &CStr,
        file: &File,
        object: &ObjectName,
    ) -> Result<()> {
        if !self.objects.is_sound(object, file.size, &file.meta)? {
            return Err(damaged(self.objects, object));
        }
        let from = self.objects.open_object(object)?;
        let to = into.create_file(name, 0o600)?;
        let fail = |action| {
            let path = into.path_of(name);
            move |err| Error::io(action, path, err)
        };
        let reflink = self.placement.mode != LinkMode::Copy
            && disk::clone_contents(&from, &to).map_err(fail("clone to"))?;
        if reflink {
            self.placed.reflinked += 1;
        } else if self.placement.strict && self.placement.mode == LinkMode::Reflink {
            let why = std::io::Error::from(std::io::ErrorKind::Unsupported);
            return Err(fail("clone to")(why));
        } else {
            let copied = disk::copy_contents(&from, &to).map_err(fail("copy to"))?;
            if copied != file.size {
                return Err(damaged(self.objects, object));
            }
            self.placed.copied += 1;
        }
        self.finish_file(into, &to, name, file)
    }

    fn finish_file(&self, into: &Dir, made: &OpenFile, name: &CStr, file: &File) -> Result<()> {
        disk::set_meta(made, &|| into.path_of(name), &file.meta, self.placement.owner)
    }

    fn place_special(
        &mut self,
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
            self.skipped.push(path());
            return Ok(());
        }
        let number = device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
        match into.make_node(name, kind, 0o600, number) {
            // Root without the capability, as in a container.
            Err(err) if device.is_some() && not_permitted(&err) => {
                self.skipped.push(path());
                return Ok(());
            }
            other => other?,
        }
        disk::set_meta_at(into, name, meta, self.placement.owner, true)
    }
}

/// An object that is missing or not what it must be.
fn damaged(objects: &Objects, name: &ObjectName) -> Error {
    let reason = "is missing or was changed from outside".to_owned();
    Error::Corrupt { path: objects.path_of(name), reason }
}

fn cannot_link(err: &Error) -> bool {
    use rustix::io::Errno;
    let Error::Io { cause, .. } = err else { return false };
    let cannot = [Errno::MLINK, Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP];
    cannot.iter().any(|errno| cause.raw_os_error() == Some(errno.raw_os_error()))
}

fn not_permitted(err: &Error) -> bool {
    matches!(err, Error::Io { cause, .. }
        if cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The directory that `path` is in (`None`: `root` itself) and its last part.
pub fn open_parent(root: &Dir, path: &EntryPath) -> Result<(Option<Dir>, CString)> {
    let (parent, name) = path.split().ok_or_else(no_such_name)?;
    Ok((open_dir(root, &parent)?, c_name(name)?))
}

/// The directory at `path`; `None` for `root` itself.
pub fn open_dir(root: &Dir, path: &EntryPath) -> Result<Option<Dir>> {
    let mut dir: Option<Dir> = None;
    for part in path.parts() {
        dir = Some(dir.as_ref().unwrap_or(root).child(&c_name(part)?)?);
    }
    Ok(dir)
}

/// A name for the system. None has a NUL: names of archives with one are refused.
pub fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| no_such_name())
}

fn no_such_name() -> Error {
    Error::BadEntry { entry: String::new(), reason: "is no name of a file".to_owned() }
}
