//! Unpacking without a store: local archives, merged into a new directory.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::extract::read_objects;
use super::publish::build_in;
use super::{LinkMode, Options, Placed};
use crate::disk::{Dir, Fresh, Mounts, TempFile};
use crate::error::{Error, Result};
use crate::layer::batch::Batch;
use crate::layer::entries::Entries;
use crate::layer::entry::Entry;
use crate::layer::index::IndexWriter;
use crate::layer::objects::{Naming, Objects};
use crate::root::merge::add_layer;
use crate::root::place::Placement;
use crate::root::tree::Tree;
use crate::writable::Writable;

/// Merges local archives, lowest first, into the new directory `into`, which must not
/// exist or be empty. Objects live in a temporary directory beside it and are moved by
/// linking; `into` appears when it is complete and synced.
pub fn unpack(archives: &[PathBuf], into: &Path, options: Options) -> Result<Placed> {
    let path = std::path::absolute(into).map_err(|err| Error::io("find", into, err))?;
    let no_name =
        || Error::io("create", into, std::io::Error::from(std::io::ErrorKind::InvalidInput));
    let name = path.file_name().ok_or_else(no_name)?;
    let name = CString::new(name.as_bytes()).map_err(|_| no_name())?;
    let parent = Dir::open_or_create(path.parent().ok_or_else(no_name)?, 0o755)?;
    if parent.contains(&name)? && !parent.child(&name)?.list()?.is_empty() {
        let reason = std::io::Error::other("it is there and not empty");
        return Err(Error::io("unpack into", into, reason));
    }
    Mounts::read().check(&parent, &name, "unpack into")?;
    let temp = parent.make_temp(".unpack", 0o700)?;
    let placed = parent.child(&temp).map(Arc::new).and_then(|work| {
        let placed = merge_in(archives, &work, options)?;
        work.rename(c"root", &parent, &name)?;
        parent.sync()?;
        Ok(placed)
    });
    if let Err(err) = parent.remove_tree(&temp) {
        // What was unpacked is there all the same.
        let path = parent.path_of(&temp);
        tracing::warn!("{} stays, as it cannot be removed: {err}", path.display());
    }
    placed
}

fn merge_in(archives: &[PathBuf], work: &Arc<Dir>, options: Options) -> Result<Placed> {
    let owner = rustix::process::geteuid().is_root();
    // The objects go away again, so that linking them moves them.
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
    for path in archives {
        let mut archive = File::open(path).map_err(|err| Error::io("open", path, err))?;
        let batch = Batch::begin(&objects)?;
        let file = TempFile::create(work, "index")?;
        let fail = |err| file.error("write", err);
        let mut index = IndexWriter::new(file.file());
        let each = |entry: Entry| index.add(&entry).map_err(fail);
        let (_, read) = read_objects(&mut archive, options.limits, &batch, |_| {}, each);
        read.map_err(|err| of_archive(path, err))?;
        index.finish().map_err(fail)?;
        // Not synced: they go away, and what is made of them is.
        batch.publish()?;
        let name = file.name().to_owned();
        add_layer(&mut tree, Entries::open(work.open_file(&name)?, &work.path_of(&name))?)?;
    }
    work.make_dir(c"root", 0o700)?;
    let placement = Placement {
        mode,
        strict,
        owner,
        fresh: Fresh::probe(work)?,
        writable: Writable::default(),
    };
    let built = build_in(&tree, &objects, placement, work, c"root")?;
    if !built.skipped.is_empty() {
        let names: Vec<String> = built.skipped.iter().map(|path| format!("{path:?}")).collect();
        tracing::warn!("devices need root and are left out: {}", names.join(", "));
    }
    Ok(built.placed)
}

/// With the archive's name, where the error does not tell which it is.
fn of_archive(path: &Path, err: Error) -> Error {
    match err {
        Error::BadArchive { reason } => {
            Error::BadArchive { reason: format!("{} {reason}", path.display()) }
        }
        other => other,
    }
}
