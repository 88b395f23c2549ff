//! Builds a tree as a directory. The directory is new, nobody else can enter it yet,
//! and the tree has no path through a symlink: each step opens one name, not following.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File as OpenFile;

use super::tree::{File, FileId, Node, Special, Tree};
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

/// What building a tree did.
#[derive(Debug, Default)]
pub struct Built {
    /// Files by the way they were placed.
    pub placed: Placed,
    /// Devices that could not be made for want of privilege.
    pub skipped: Vec<EntryPath>,
    /// Files that could become objects, so that the next root links them.
    twins: Vec<(ObjectName, EntryPath)>,
}

/// The objects that a tree needs, each once, with a file that needs it. A file that
/// equals `n` others that it is not linked to needs twin `n` of the object.
pub fn objects_of<'a>(
    tree: &'a Tree,
    objects: &'a Objects,
) -> impl Iterator<Item = (ObjectName, &'a File)> {
    let files = tree.iter().filter_map(|(_, node)| match node {
        Node::File(id) => Some(tree.file(*id)),
        _ => None,
    });
    files.filter(|file| file.size > 0).map(|file| (objects.name(file.content, &file.meta, 0), file))
}

/// Builds `tree` in the empty directory `into`, whose own metadata stay as they are.
pub fn build(tree: &Tree, objects: &Objects, placement: Placement, into: Dir) -> Result<Built> {
    let names = count_names(tree);
    let mut builder = Builder {
        tree,
        objects,
        placement,
        names,
        first: HashMap::new(),
        twins: HashMap::new(),
        open: vec![Level { dir: into, path: EntryPath::root(), meta: None }],
        built: Built::default(),
    };
    for (path, node) in tree.iter() {
        builder.close_until_above(path)?;
        builder.place(path, node)?;
    }
    builder.close_all()?;
    Ok(builder.built)
}

/// Makes objects of files that had to be copied because their object was taken by an
/// equal file. `root` is the built directory, synced.
pub fn adopt_twins(built: &Built, objects: &Objects, root: &Dir) -> Result<()> {
    for (name, path) in &built.twins {
        let (dir, file) = open_parent(root, path)?;
        objects.adopt(name, dir.as_ref().unwrap_or(root), &file)?;
    }
    Ok(())
}

struct Builder<'a> {
    tree: &'a Tree,
    objects: &'a Objects,
    placement: Placement,
    /// For each file of the tree, how many names it has.
    names: Vec<u32>,
    /// Where the first name of a file with several is.
    first: HashMap<FileId, EntryPath>,
    /// How many files have used an object so far.
    twins: HashMap<ObjectName, u32>,
    /// The directories from the root down to the current one.
    open: Vec<Level>,
    built: Built,
}

struct Level {
    dir: Dir,
    path: EntryPath,
    /// What the directory gets when all in it is placed.
    meta: Option<Meta>,
}

impl Builder<'_> {
    fn close_until_above(&mut self, path: &EntryPath) -> Result<()> {
        while self.open.last().is_some_and(|level| !level.path.is_above(path)) {
            self.close()?;
        }
        Ok(())
    }

    fn close_all(&mut self) -> Result<()> {
        while self.open.len() > 1 {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Level { dir, meta: Some(meta), .. }) = self.open.pop() else { return Ok(()) };
        let path = || dir.path().to_owned();
        disk::set_meta(&dir, &path, &meta, self.placement.owner)
    }

    fn place(&mut self, path: &EntryPath, node: &Node) -> Result<()> {
        let name = file_name(path)?;
        match node {
            Node::Directory(meta) => {
                let here = self.here();
                here.make_dir(&name, 0o700)?;
                let dir = here.child(&name)?;
                let meta = Some(meta.clone());
                self.open.push(Level { dir, path: path.clone(), meta });
                Ok(())
            }
            Node::File(id) => self.place_file(path, &name, *id),
            Node::Symlink { target, meta } => {
                let target = CString::new(&**target).map_err(|_| no_such_name(path))?;
                self.here().symlink(&target, &name)?;
                disk::set_meta_at(self.here(), &name, meta, self.placement.owner, false)
            }
            Node::Special { kind, meta } => self.place_special(path, &name, *kind, meta),
        }
    }

    fn place_file(&mut self, path: &EntryPath, name: &CStr, id: FileId) -> Result<()> {
        if let Some(first) = self.first.get(&id) {
            let (dir, file) = open_parent(&self.open[0].dir, first)?;
            return dir.as_ref().unwrap_or(&self.open[0].dir).link(&file, self.here(), name);
        }
        if self.names[id.0 as usize] > 1 {
            self.first.insert(id, path.clone());
        }
        let tree = self.tree;
        let file = tree.file(id);
        if file.size == 0 {
            let made = self.here().create_file(name, 0o600)?;
            return self.finish_file(&made, name, file);
        }
        let object = self.objects.name(file.content, &file.meta, 0);
        if self.placement.mode != LinkMode::Hardlink {
            return self.place_contents(name, file, &object);
        }
        let twin = self.twins.entry(object.clone()).or_insert(0);
        let n = *twin;
        *twin += 1;
        self.place_link(path, name, file, &object, n)
    }

    /// By hardlink, or by copy when the object is taken by an equal file of this root.
    fn place_link(
        &mut self,
        path: &EntryPath,
        name: &CStr,
        file: &File,
        object: &ObjectName,
        twin: u32,
    ) -> Result<()> {
        let own = self.objects.name(file.content, &file.meta, twin);
        if self.objects.is_sound(&own, file.size, &file.meta)? {
            match self.objects.link_to(&own, self.here(), name) {
                Ok(()) => {
                    self.built.placed.hardlinked += 1;
                    return Ok(());
                }
                Err(err) if self.placement.strict || !cannot_link(&err) => return Err(err),
                Err(_) => return self.place_contents(name, file, &own),
            }
        }
        if twin == 0 {
            return Err(damaged(self.objects, &own));
        }
        self.objects.remove(&own)?;
        self.place_contents(name, file, object)?;
        self.built.twins.push((own, path.clone()));
        Ok(())
    }

    /// By reflink or copy of the object's contents.
    fn place_contents(&mut self, name: &CStr, file: &File, object: &ObjectName) -> Result<()> {
        if !self.objects.is_sound(object, file.size, &file.meta)? {
            return Err(damaged(self.objects, object));
        }
        let from = self.objects.open_object(object)?;
        let to = self.here().create_file(name, 0o600)?;
        let fail = |action| {
            let path = self.here().path_of(name);
            move |err| Error::io(action, path, err)
        };
        let reflink = self.placement.mode != LinkMode::Copy
            && disk::clone_contents(&from, &to).map_err(fail("clone to"))?;
        if reflink {
            self.built.placed.reflinked += 1;
        } else if self.placement.strict && self.placement.mode == LinkMode::Reflink {
            let why = std::io::Error::from(std::io::ErrorKind::Unsupported);
            return Err(fail("clone to")(why));
        } else {
            let copied = disk::copy_contents(&from, &to).map_err(fail("copy to"))?;
            if copied != file.size {
                return Err(damaged(self.objects, object));
            }
            self.built.placed.copied += 1;
        }
        self.finish_file(&to, name, file)
    }

    fn finish_file(&self, made: &OpenFile, name: &CStr, file: &File) -> Result<()> {
        let path = || self.here().path_of(name);
        disk::set_meta(made, &path, &file.meta, self.placement.owner)
    }

    fn place_special(
        &mut self,
        path: &EntryPath,
        name: &CStr,
        kind: Special,
        meta: &Meta,
    ) -> Result<()> {
        let (kind, device) = match kind {
            Special::Fifo => (FileType::Fifo, None),
            Special::CharDevice(device) => (FileType::CharacterDevice, Some(device)),
            Special::BlockDevice(device) => (FileType::BlockDevice, Some(device)),
        };
        if device.is_some() && !self.placement.owner {
            self.built.skipped.push(path.clone());
            return Ok(());
        }
        let number = device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
        match self.here().make_node(name, kind, 0o600, number) {
            // Root without the capability, as in a container.
            Err(err) if device.is_some() && not_permitted(&err) => {
                self.built.skipped.push(path.clone());
                return Ok(());
            }
            other => other?,
        }
        disk::set_meta_at(self.here(), name, meta, self.placement.owner, true)
    }

    fn here(&self) -> &Dir {
        &self.open.last().expect("the root stays open").dir
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

fn count_names(tree: &Tree) -> Vec<u32> {
    let mut names = vec![0; tree.files.len()];
    for (_, node) in tree.iter() {
        if let Node::File(id) = node {
            names[id.0 as usize] += 1;
        }
    }
    names
}

/// The directory that `path` is in (`None`: `root` itself) and its last part.
fn open_parent(root: &Dir, path: &EntryPath) -> Result<(Option<Dir>, CString)> {
    let (parent, _) = path.split().ok_or_else(|| no_such_name(path))?;
    let mut dir: Option<Dir> = None;
    for part in parent.parts() {
        let part = CString::new(part).map_err(|_| no_such_name(path))?;
        dir = Some(dir.as_ref().unwrap_or(root).child(&part)?);
    }
    Ok((dir, file_name(path)?))
}

fn file_name(path: &EntryPath) -> Result<CString> {
    let name = path.split().and_then(|(_, name)| CString::new(name).ok());
    name.ok_or_else(|| no_such_name(path))
}

fn no_such_name(path: &EntryPath) -> Error {
    let reason = "is no name of a file".to_owned();
    Error::BadEntry { entry: path.to_string(), reason }
}
