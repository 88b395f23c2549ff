//! Merges local archives into a directory, without a store.

pub(super) mod changed;
mod moved_names;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Options;
use super::extract::read_objects;
use super::publish::{build_in, root_meta};
use crate::disk::{self, Dir, FileType, Fresh, TempFile, hold, is_held};
use crate::error::{Error, Result};
use crate::layer::entry::{Content, Entry};
use crate::layer::index::IndexWriter;
use crate::layer::index::entries::Entries;
use crate::layer::objects::Objects;
use crate::layer::objects::batch::Batch;
use crate::layer::objects::object_name::Naming;
use crate::meter::{Meter, Unit};
use crate::owners::Owners;
use crate::root::merge::add_layer;
use crate::root::placing::{LinkMode, Placed, Placement};
use crate::root::tree::Tree;
use crate::writable::Writable;

/// The prefix of a work directory's name. The program recognises its own work directories by this
/// prefix.
const WORK: &str = ".unpack";
/// The name of the root in the work directory.
const ROOT: &CStr = c"root";

/// Merges local archives into the directory `into`. The first archive is the lowest layer. The
/// directory must be empty or missing. The objects are in a temporary directory. This directory is
/// inside `into` if `into` exists, and otherwise beside `into`. By default, the files become
/// hardlinks to these objects. If `into` is missing, it appears only when it is complete and
/// synced. If `into` exists, each of its entries appears only when the entry is complete and
/// synced. If a call is killed, the next call with the same `into` removes the leftovers.
pub fn unpack(archives: &[PathBuf], into: &Path, options: Options) -> Result<Placed> {
    unpack_counted(archives, into, options, &Arc::default())
}

/// Like [`unpack`], but with a meter. `meter` first counts the bytes that were read from the
/// archives, and then the entries that were placed.
pub fn unpack_counted(
    archives: &[PathBuf],
    into: &Path,
    options: Options,
    meter: &Arc<Meter>,
) -> Result<Placed> {
    let path = std::path::absolute(into).map_err(|err| Error::io("find", into, err))?;
    let no_name =
        || Error::io("create", into, std::io::Error::from(std::io::ErrorKind::InvalidInput));
    let name = path.file_name().ok_or_else(no_name)?;
    let name = CString::new(name.as_bytes()).map_err(|_| no_name())?;
    let parent = match Dir::open_or_create(path.parent().ok_or_else(no_name)?, 0o755) {
        // A user without access to the parent directory may still write to the directory itself.
        Err(err) if err.is_denied() && path.is_dir() => {
            return unpack_in(archives, &Arc::new(Dir::open(&path)?), into, options, meter);
        }
        other => other?,
    };
    if parent.contains(&name)? {
        return unpack_in(archives, &Arc::new(parent.child(&name)?), into, options, meter);
    }
    let prefix = format!("{WORK}-{:.8}", Content::of(name.to_bytes()).to_string());
    remove_leftovers(&parent, &prefix)?;
    let work = Work::begin(&parent, &prefix)?;
    let placed = merge_in(archives, &work.dir, options, meter).and_then(|(_, placed)| {
        work.dir.rename(ROOT, &parent, &name)?;
        parent.sync()?;
        Ok(placed)
    });
    work.end(&parent, placed)
}

/// Unpacks into an existing directory. The function writes no files outside this directory.
fn unpack_in(
    archives: &[PathBuf],
    dir: &Arc<Dir>,
    into: &Path,
    options: Options,
    meter: &Arc<Meter>,
) -> Result<Placed> {
    remove_leftovers(dir, WORK)?;
    if !dir.list()?.is_empty() {
        let reason = "it exists and is not empty; give a new or an empty directory";
        let reason = std::io::Error::other(reason);
        return Err(Error::io("unpack into", into, reason));
    }
    let work = Work::begin(dir, WORK)?;
    let placed = merge_in(archives, &work.dir, options, meter).and_then(|(tree, placed)| {
        let root = work.dir.child(ROOT)?;
        moved_names::record(&work.dir, &root)?;
        let mut moved = Vec::new();
        let all = move_all(&root, dir, &mut moved).and_then(|()| describe(dir, &tree));
        if all.is_err() {
            // The function returns the first error, not an error of this cleanup.
            let _ = moved.iter().try_for_each(|name| dir.remove_tree(name));
        }
        all.and_then(|()| moved_names::forget(&work.dir)).map(|()| (tree, placed))
    });
    let (tree, placed) = work.end(dir, placed)?;
    if tree.is_described() && is_ours(dir)? {
        // The removal of the work directory changed the time of `dir`.
        disk::set_times(&**dir, &|| dir.path().to_owned(), &tree.root().meta)?;
    }
    dir.sync()?;
    Ok(placed)
}

/// A work directory. It is locked while it is in use.
struct Work {
    name: CString,
    dir: Arc<Dir>,
}

impl Work {
    fn begin(parent: &Dir, prefix: &str) -> Result<Self> {
        let name = parent.make_temp(prefix, 0o700)?;
        let dir = Arc::new(parent.child(&name)?);
        let stat = rustix::fs::fstat(&*dir).map_err(|err| Error::io("stat", dir.path(), err))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            // Another user with access to the parent directory has replaced the directory.
            let reason = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            return Err(Error::io("work in", dir.path(), reason));
        }
        hold(&*dir).map_err(|err| Error::io("lock", dir.path(), err))?;
        Ok(Self { name, dir })
    }

    /// Removes the work directory. If the removal fails, the unpacked directory is still complete.
    fn end<T>(self, parent: &Dir, placed: Result<T>) -> Result<T> {
        if let Err(err) = parent.remove_tree(&self.name) {
            let path = parent.path_of(&self.name);
            tracing::warn!("the work directory {} cannot be removed: {err}", path.display());
        }
        placed
    }
}

/// Removes the leftovers of killed calls in `dir`. The leftovers are the unlocked work directories
/// of this program, and the entries that a killed call moved from its work directory to `dir`.
fn remove_leftovers(dir: &Dir, prefix: &str) -> Result<()> {
    for item in dir.list()? {
        let digits =
            |part: &[u8]| part.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
        let rest = item.name.to_bytes().strip_prefix(prefix.as_bytes());
        if item.kind != FileType::Directory
            || !rest.is_some_and(|rest| rest.starts_with(b"-") && digits(rest))
        {
            continue;
        }
        let Ok(work) = dir.child(&item.name) else { continue };
        let stat = rustix::fs::fstat(&work).map_err(|err| Error::io("stat", work.path(), err))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || is_held(&work) {
            continue;
        }
        moved_names::remove(&work, dir)?;
        dir.remove_tree(&item.name)?;
    }
    Ok(())
}

/// Moves all entries of `root` to `into`.
fn move_all(root: &Dir, into: &Dir, moved: &mut Vec<CString>) -> Result<()> {
    let owner = rustix::process::geteuid().is_root();
    for item in root.list()? {
        // If the mode of a directory denies its owner write access, only the user root can move the
        // directory.
        let closed = if owner || item.kind != FileType::Directory {
            None
        } else {
            let mode = root.stat(&item.name)?.st_mode & 0o7777;
            let is_closed = mode & 0o200 == 0;
            let directory = if is_closed { Some(root.child_opened_up(&item.name)?) } else { None };
            directory.map(|directory| (directory, mode))
        };
        if let Some((directory, mode)) = &closed {
            directory.set_mode(mode | 0o200)?;
        }
        if !root.rename_new(&item.name, into, &item.name)? {
            if into.contains(&item.name)? {
                let reason = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(Error::io("create", into.path_of(&item.name), reason));
            }
            // This filesystem cannot guarantee that the name is still free at the time of the
            // rename.
            root.rename(&item.name, into, &item.name)?;
        }
        moved.push(item.name);
        if let Some((directory, mode)) = &closed {
            directory.set_mode(*mode)?;
        }
    }
    Ok(())
}

/// If the archives have an entry `./`, gives an existing directory the metadata of this entry.
fn describe(dir: &Dir, tree: &Tree) -> Result<()> {
    if !tree.is_described() {
        return Ok(());
    }
    if !is_ours(dir)? {
        tracing::warn!(
            "{} keeps its mode and time, because it belongs to another user",
            dir.path().display()
        );
        return Ok(());
    }
    let owner = rustix::process::geteuid().is_root();
    disk::set_meta(dir, &|| dir.path().to_owned(), &root_meta(tree, owner), owner)
}

/// Whether this process may change the mode and time of a directory.
fn is_ours(dir: &Dir) -> Result<bool> {
    let stat = rustix::fs::fstat(dir).map_err(|err| Error::io("stat", dir.path(), err))?;
    let user = rustix::process::geteuid();
    Ok(user.is_root() || stat.st_uid == user.as_raw())
}

/// Builds and syncs the tree of `archives` in `work`.
fn merge_in(
    archives: &[PathBuf],
    work: &Arc<Dir>,
    options: Options,
    meter: &Arc<Meter>,
) -> Result<(Tree, Placed)> {
    let owner = rustix::process::geteuid().is_root();
    // The objects are removed later, so a hardlink to an object has the same result as a move of
    // the object.
    let (mode, strict) = match options.link {
        LinkMode::Auto => (LinkMode::Hardlink, false),
        forced => (forced, true),
    };
    let naming = match mode {
        LinkMode::Hardlink => Naming::Inode { owner },
        LinkMode::Auto | LinkMode::Reflink | LinkMode::Copy => Naming::Contents,
    };
    let objects = Arc::new(Objects::open(work, naming)?);
    let mut tree = Tree::default();
    meter.begin("read", Unit::Bytes, length_of(archives));
    for path in archives {
        let mut archive = File::open(path).map_err(|err| Error::io("open", path, err))?;
        let batch = Batch::begin(&objects)?;
        let file = TempFile::create(work, "index")?;
        let fail = |err| file.error("write", err);
        let mut index = IndexWriter::new(file.file());
        let each = |entry: Entry| index.add(&entry).map_err(fail);
        let seen = |bytes: &[u8]| meter.add(bytes.len() as u64);
        let (_, read) =
            read_objects(&mut archive, options.limits, &batch, &Owners::default(), seen, each);
        read.map_err(|err| of_archive(path, err))?;
        index.finish().map_err(fail)?;
        // The objects are temporary, so no barrier syncs them. The built tree is synced instead.
        batch.publish()?;
        let name = file.name().to_owned();
        add_layer(&mut tree, Entries::open(work.open_file(&name)?, &work.path_of(&name))?)?;
    }
    work.make_dir(ROOT, 0o700)?;
    let placement = Placement {
        mode,
        strict,
        owner,
        fresh: Fresh::probe(work)?,
        writable: Writable::default(),
        learned: Arc::default(),
        owners: Owners::default(),
        meter: Arc::clone(meter),
    };
    let built = build_in(&tree, &objects, placement, work, ROOT)?;
    if !built.skipped.is_empty() {
        let names: Vec<String> = built.skipped.iter().map(|path| format!("{path:?}")).collect();
        tracing::warn!(
            "device files are left out, because only the user root can create them: {}",
            names.join(", ")
        );
    }
    Ok((tree, built.placed))
}

/// The total size in bytes of all archives. 0 if the size of an archive is not known, because the
/// archive is not a regular file.
fn length_of(archives: &[PathBuf]) -> u64 {
    let length = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        meta.is_file().then_some(meta.len())
    };
    archives.iter().map(length).sum::<Option<u64>>().unwrap_or(0)
}

/// Adds the name of the archive to an error that does not name the archive.
fn of_archive(path: &Path, err: Error) -> Error {
    match err {
        Error::BadArchive { reason } => {
            Error::BadArchive { reason: format!("{} {reason}", path.display()) }
        }
        other => other,
    }
}
