//! Lists an agent's directory for a sweep. This module changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use super::inventory::{Aside, File, FoundRoot, Inventory, Record};
use super::keep::Keep;
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{self, Dir, FileType, Mounts, digest_of, is_held};
use crate::error::{Error, Result, if_exists};
use crate::layer::entry::Kind;
use crate::layer::index::{Index, read_index};
use crate::layer::objects;
use crate::layer::objects::object_name::{Naming, ObjectName};
use crate::root::merge::merge;
use crate::root::placing::LinkMode;
use crate::root::tree::{Directory, Node, Tree};
use crate::store::names::{self, ok_name};

/// An agent's directory, as a sweep uses it. The caller holds the lock of the directory.
#[derive(Debug)]
pub(in crate::store) struct AgentDir {
    pub top: Dir,
    pub naming: Naming,
    pub link: LinkMode,
    pub owner: bool,
    /// The name of the spare, if there is a spare.
    pub spare: Option<CString>,
}

/// The roots without a record in the agent's directory `dir`, oldest first. Another program, such
/// as the Go agent, made these roots, or their origin is unknown.
pub fn taken_over(dir: &Path) -> Result<Vec<Digest>> {
    let top = Dir::open(dir)?;
    let records = if_exists(top.child(c"roots"))?;
    let Some(unpacked) = if_exists(top.child(c"unpacked"))? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for item in unpacked.list()? {
        let Some(id) = digest_of(&item.name) else { continue };
        let recorded = records.as_ref().map_or(Ok(false), |dir| dir.contains(&item.name))?;
        if recorded || item.kind != FileType::Directory {
            continue;
        }
        // The age of the root counts from the mtime of its mark, because a service may have changed
        // the mtime of the root itself.
        let marked = if_exists(unpacked.stat(&ok_name(id)))?;
        let Some(stat) =
            marked.map_or_else(|| if_exists(unpacked.stat(&item.name)), |it| Ok(Some(it)))?
        else {
            continue;
        };
        found.push((stat.st_mtime, stat.st_mtime_nsec, id));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, _, id)| id).collect())
}

impl AgentDir {
    /// Lists all files and directories whose removal `keep` may allow.
    pub fn list(&self, keep: &Keep) -> Result<Inventory> {
        let mounts = Mounts::read();
        let mut inventory = Inventory { roots: self.roots(keep, &mounts)?, ..Inventory::default() };
        inventory.spare.clone_from(&self.spare);
        self.asides(keep, &mounts, &mut inventory)?;
        let Some(ages) = keep.cache else { return Ok(inventory) };
        inventory.layers = self.named(c"layers", |stat| stat.st_mtime)?;
        inventory.blobs = self.named(c"cache", |stat| stat.st_mtime)?;
        self.objects(&mut inventory)?;
        self.downloads(&mut inventory)?;
        if ages.leftovers {
            self.leftovers(&mut inventory)?;
        }
        if let Some(dir) = if_exists(self.top.child(c"quarantine"))? {
            for item in dir.list()? {
                let Some(stat) = if_exists(dir.stat(&item.name))? else { continue };
                let files = self.files(&dir, &item.name, None)?;
                inventory.quarantine.push((item.name, stat.st_ctime, files));
            }
        }
        Ok(inventory)
    }

    /// The names of the objects of the layers `layers`, without twins (further objects for equal
    /// files). If the index of a layer cannot be decoded, the inner error names the layer. If an
    /// object does not exist under its name, its name under the other kind of [`Naming`] is also
    /// needed, because the store can make the object from a copy of that file.
    pub fn objects_of<'a>(
        &self,
        layers: impl Iterator<Item = &'a Digest>,
        inventory: &Inventory,
    ) -> Result<Result<BTreeSet<Vec<u8>>, String>> {
        let here: HashSet<&[u8]> =
            inventory.objects.iter().map(|(name, _)| name.to_bytes()).collect();
        let mut names = BTreeSet::new();
        let Some(dir) = if_exists(self.top.child(c"layers"))? else { return Ok(Ok(names)) };
        for &digest in layers {
            let index = match if_exists(read_index(&dir, digest)) {
                Ok(None) => continue,
                Ok(Some(index)) => index,
                Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => {
                    let why = "the index of layer {} is damaged or has a newer format, so the \
                               objects of this layer are not known";
                    return Ok(Err(why.replace("{}", &digest.to_string())));
                }
                Err(err) => return Err(err),
            };
            for entry in index.entries {
                if let Kind::File { content, .. } = entry.kind {
                    let name = self.naming.name(content, &entry.meta, 0);
                    if !here.contains(name.as_bytes()) {
                        let other = self.naming.other().name(content, &entry.meta, 0);
                        names.insert(other.as_bytes().to_vec());
                    }
                    names.insert(name.as_bytes().to_vec());
                }
            }
        }
        Ok(Ok(names))
    }

    fn roots(&self, keep: &Keep, mounts: &Mounts) -> Result<Vec<FoundRoot>> {
        let records = if_exists(self.top.child(c"roots"))?;
        let unpacked = if_exists(self.top.child(c"unpacked"))?;
        let mut found: BTreeMap<Digest, FoundRoot> = BTreeMap::new();
        for item in records.as_ref().map_or(Ok(Vec::new()), Dir::list)? {
            let (Some(id), Some(dir)) = (digest_of(&item.name), &records) else { continue };
            let record_file = self.files(dir, &item.name, None)?;
            let record = read_record(dir, &item.name)?;
            let (is_there, files, mounted) = (false, Vec::new(), None);
            found.insert(id, FoundRoot { id, record, record_file, is_there, files, mounted });
        }
        let Some(unpacked) = unpacked else { return Ok(found.into_values().collect()) };
        for item in unpacked.list()? {
            let Some(id) = digest_of(&item.name) else { continue };
            // Roots of this program usually have a record. Roots of the Go agent have none.
            let taken_over = !found.contains_key(&id) && item.kind == FileType::Directory;
            if taken_over {
                let (record, record_file, files) = (Record::None, Vec::new(), Vec::new());
                let (is_there, mounted) = (true, None);
                found.insert(id, FoundRoot { id, record, record_file, is_there, files, mounted });
            }
            let Some(root) = found.get_mut(&id) else { continue };
            root.is_there = true;
            let goes = keep.roots.as_ref().is_some_and(|kept| kept.iter().all(|(it, _)| *it != id));
            if goes {
                root.mounted = mounted(mounts, &unpacked, &item.name);
            }
            if keep.weigh && goes && (!taken_over || keep.taken_over) {
                let tree = self.tree(&root.record);
                let tree = tree.as_ref().map(|tree| &**tree.root());
                root.files = self.files(&unpacked, &item.name, tree)?;
                root.files.extend(self.files(&unpacked, &ok_name(id), None)?);
                root.files.extend(&root.record_file);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Lists the other directories among the roots that a sweep may remove: replaced roots, and
    /// directories that an earlier sweep could not remove. If `keep` allows the removal of
    /// unfinished work, other temporary directories are also listed.
    fn asides(&self, keep: &Keep, mounts: &Mounts, inventory: &mut Inventory) -> Result<()> {
        let leftovers = keep.cache.is_some_and(|ages| ages.leftovers);
        let Some(dir) = if_exists(self.top.child(c"unpacked"))? else { return Ok(()) };
        if keep.roots.is_none() && !leftovers {
            return Ok(());
        }
        for item in dir.list()? {
            let begins = |prefix: &str| item.name.to_bytes().starts_with(prefix.as_bytes());
            let (replaced, retired) = (begins(names::REPLACED), begins(names::RETIRED));
            let left = leftovers && names::TEMPORARY.iter().any(|prefix| begins(prefix));
            if !(replaced || retired || left) || self.lives(&dir, &item.name) {
                continue;
            }
            let goes = !replaced || keep.replaced;
            let files =
                if keep.weigh && goes { self.files(&dir, &item.name, None)? } else { Vec::new() };
            let mounted = mounted(mounts, &dir, &item.name);
            let path = Path::new("unpacked").join(path_of(&item.name));
            inventory.asides.push(Aside { path, replaced, mounted, files });
        }
        Ok(())
    }

    /// Whether `name` is the spare, or a temporary file that a process has open.
    fn lives(&self, dir: &Dir, name: &CStr) -> bool {
        self.spare.as_deref() == Some(name) || dir.open_file(name).is_ok_and(|open| is_held(&open))
    }

    /// The tree of a root. A sweep needs this tree only with reflinks, to find the files that share
    /// extents with objects.
    fn tree(&self, record: &Record) -> Option<Tree> {
        let Record::Of(configuration) = record else { return None };
        if self.link != LinkMode::Reflink {
            return None;
        }
        let layers = self.top.child(c"layers").ok()?;
        let read = |layer: &crate::config::Layer| read_index(&layers, layer.digest).ok();
        let indexes: Option<Vec<Index>> = configuration.layers().iter().map(read).collect();
        merge(&indexes?).ok()
    }

    /// The files in `dir` whose names are digests.
    fn named(&self, dir: &CStr, changed: impl Fn(&Stat) -> i64) -> Result<Vec<(Digest, File)>> {
        let mut found = Vec::new();
        let Some(dir) = if_exists(self.top.child(dir))? else { return Ok(found) };
        for item in dir.list()? {
            let Some(digest) = digest_of(&item.name) else { continue };
            let Some(stat) = if_exists(dir.stat(&item.name))? else { continue };
            found.push((digest, File { changed: changed(&stat), ..file(&stat) }));
        }
        Ok(found)
    }

    fn objects(&self, inventory: &mut Inventory) -> Result<()> {
        let Some(objects) = if_exists(self.top.child(c"objects"))? else { return Ok(()) };
        for fan in objects.list()?.into_iter().filter(|fan| fan.name.to_bytes().len() == 2) {
            let Some(dir) = if_exists(objects.child(&fan.name))? else { continue };
            for item in dir.list()? {
                if ObjectName::from_file_name(&item.name).is_none() {
                    continue;
                }
                if let Some(stat) = if_exists(dir.stat(&item.name))? {
                    // The ctime changes when the object is created, and when a hardlink to the
                    // object is made or removed.
                    let changed = stat.st_ctime;
                    inventory.objects.push((item.name, File { changed, ..file(&stat) }));
                }
            }
        }
        Ok(())
    }

    fn downloads(&self, inventory: &mut Inventory) -> Result<()> {
        let Some(dir) = if_exists(self.top.child(c"partial"))? else { return Ok(()) };
        for item in dir.list()? {
            let Ok(open) = dir.open_file(&item.name) else { continue };
            let bytes = item.name.to_bytes();
            let abandoned = bytes.starts_with(b"upload-");
            let ours =
                abandoned || bytes.starts_with(b"partial-") || digest_of(&item.name).is_some();
            if !ours || is_held(&open) {
                continue;
            }
            let Some(stat) = if_exists(dir.stat(&item.name))? else { continue };
            let file = File { changed: stat.st_mtime, ..file(&stat) };
            inventory.downloads.push((item.name, file, abandoned));
        }
        Ok(())
    }

    fn leftovers(&self, inventory: &mut Inventory) -> Result<()> {
        let places: [(Option<&CStr>, &[&str]); 3] = [
            (None, &["temp-state-", "temp-seals-"]),
            (Some(c"objects"), &[objects::UNFINISHED]),
            (Some(c"layers"), &["index-"]),
        ];
        for (name, prefixes) in places {
            let opened = match name {
                None => Some(Dir::open(self.top.path())?),
                Some(name) => if_exists(self.top.child(name))?,
            };
            let Some(dir) = opened else { continue };
            for item in dir.list()? {
                let bytes = item.name.to_bytes();
                let temporary = prefixes.iter().any(|prefix| bytes.starts_with(prefix.as_bytes()));
                if temporary && !self.lives(&dir, &item.name) {
                    let files = self.files(&dir, &item.name, None)?;
                    let at = name.map_or_else(PathBuf::new, path_of);
                    inventory.leftovers.push((at.join(path_of(&item.name)), files));
                }
            }
        }
        Ok(())
    }

    /// Lists the files at and below `name` in `dir`, without directories. Files that match `tree`
    /// share extents with their objects, so these files count as files of 0 bytes.
    fn files(&self, dir: &Dir, name: &CStr, tree: Option<&Directory>) -> Result<Vec<File>> {
        let mut found = Vec::new();
        let Some(stat) = if_exists(dir.stat(name))? else { return Ok(found) };
        if is_directory(&stat) {
            self.below(dir, name, tree, &mut found)?;
        } else {
            found.push(file(&stat));
        }
        Ok(found)
    }

    fn below(
        &self,
        dir: &Dir,
        name: &CStr,
        tree: Option<&Directory>,
        found: &mut Vec<File>,
    ) -> Result<()> {
        let dir = match dir.child_within(name) {
            // The listing skips a directory that this process cannot enter. The mode of the
            // directory may deny access, and only the removal changes modes. Something may also be
            // mounted on the directory, and a mount is never removed.
            Err(Error::Io { cause, .. })
                if matches!(
                    cause.kind(),
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::CrossesDevices
                ) =>
            {
                return Ok(());
            }
            other => other?,
        };
        for item in dir.list()? {
            let Some(stat) = if_exists(dir.stat(&item.name))? else { continue };
            let node = tree.and_then(|tree| tree.get(item.name.to_bytes()));
            if is_directory(&stat) {
                let below = match node {
                    Some(Node::Directory(below)) => Some(&**below),
                    _ => None,
                };
                self.below(&dir, &item.name, below, found)?;
                continue;
            }
            let shared = match node {
                Some(Node::File(it)) => disk::carries(&stat, it.size, &it.meta, self.owner),
                _ => false,
            };
            let file = file(&stat);
            found.push(if shared { File { bytes: 0, ..file } } else { file });
        }
        Ok(())
    }
}

/// If something is mounted at or below `name` in `dir`, the reason why `name` cannot be removed.
fn mounted(mounts: &Mounts, dir: &Dir, name: &CStr) -> Option<String> {
    let point = mounts.within(dir, name)?;
    Some(format!("something is mounted on {}", point.display()))
}

/// The file that `stat` describes.
fn file(stat: &Stat) -> File {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    #[allow(clippy::useless_conversion, reason = "the type of the count differs by machine")]
    let links = u64::from(stat.st_nlink);
    let bytes = if is_file { bytes } else { 0 };
    File { inode: (stat.st_dev, stat.st_ino), links, bytes, changed: stat.st_mtime }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn path_of(name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).to_owned()
}

fn read_record(dir: &Dir, name: &CStr) -> Result<Record> {
    let mut json = Vec::new();
    let Some(mut open) = if_exists(dir.open_file(name))? else { return Ok(Record::None) };
    open.read_to_end(&mut json).map_err(|err| Error::io("read", dir.path_of(name), err))?;
    Ok(Configuration::from_json(&json).map_or(Record::Unreadable, Record::Of))
}
