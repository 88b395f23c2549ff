//! Verifies an agent's directory: reads and hashes every object and blob, checks every index, and
//! compares the published roots with their configurations. A root that an earlier version of the
//! agent built is not compared. [`verify`] changes nothing and takes no lock, so it may run while
//! an agent uses the directory. If another process removes a file during the verification, the file
//! is skipped.

pub(super) mod repair;
mod sound;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::names::{ids, retired_id};
use super::publish::root_meta;
use super::sweep::taken_over;
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{self, Dir, FileType, Item, name_of};
use crate::error::{Error, Result, if_exists};
use crate::layer::content::content_of_seen;
use crate::layer::entry::Kind;
use crate::layer::index::entries::is_earlier;
use crate::layer::index::{Index, read_index};
use crate::layer::objects::object_name::ObjectName;
use crate::meter::{Meter, Unit};
use crate::owners::Owners;
use crate::root::check::{Drift, Scope, Written, check};
use crate::root::merge::add_layer_owned;
use crate::root::tree::Tree;
use crate::writable::Writable;
use sound::{blob_is_sound, object_is_sound};

/// The numbers of verified files, roots and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of objects.
    pub objects: u64,
    /// The total size of the objects in bytes.
    pub bytes: u64,
    /// The number of cached blobs.
    pub blobs: u64,
    /// The number of layer indexes.
    pub layers: u64,
    /// The number of published roots.
    pub roots: u64,
    /// The number of roots without a record, such as the roots of the Go agent. The files of these
    /// roots were read, but not compared.
    pub taken_over: u64,
}

/// A damaged file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The path of the damaged file or directory.
    pub path: PathBuf,
    /// What is wrong with the file or directory.
    pub what: String,
}

/// Verifies the agent's directory `dir`, and calls `each` for each damaged file or directory.
pub fn verify(dir: &Path, mut each: impl FnMut(Finding)) -> Result<Verified> {
    let meter = Meter::default();
    let cache = verify_cache(dir, &meter, &mut each)?;
    let Verified { roots, taken_over, .. } = verify_roots(dir, &meter, &mut each)?;
    Ok(Verified { roots, taken_over, ..cache })
}

/// The part of [`verify`] that checks objects, blobs and indexes. `meter` first counts the bytes
/// that are read, and then the indexes.
pub fn verify_cache(dir: &Path, meter: &Meter, mut each: impl FnMut(Finding)) -> Result<Verified> {
    let top = Dir::open(dir)?;
    meter.begin("read", Unit::Bytes, cached_bytes(&top)?);
    let mut verified = Verified::default();
    let mut known = BTreeSet::new();
    let objects = if_exists(top.child(c"objects"))?;
    if let Some(objects) = &objects {
        known = verify_objects(objects, &mut verified, meter, &mut each)?;
    }
    if let Some(cache) = if_exists(top.child(c"cache"))? {
        for digest in ids(&cache)? {
            let what = match blob_is_sound(&cache, digest, meter) {
                Ok(None) => continue,
                Ok(Some(true)) => None,
                Ok(Some(false)) => Some("its contents do not match its name".to_owned()),
                Err(err) => Some(err.to_string()),
            };
            if let Some(what) = what {
                each(Finding { path: cache.path_of(&name_of(digest)), what });
            }
            verified.blobs += 1;
        }
    }
    let Some(layers) = if_exists(top.child(c"layers"))? else { return Ok(verified) };
    let indexes = ids(&layers)?;
    meter.begin("compared", Unit::Items("layers"), indexes.len() as u64);
    for digest in indexes {
        meter.add(1);
        match if_exists(read_index(&layers, digest)) {
            Ok(None) => continue,
            Ok(Some(index)) => {
                let lacking = lacking(&index, &known, objects.as_ref())?;
                // If the index is missing now, a sweep has just removed the index and then the
                // objects of the layer.
                if lacking > 0 && layers.contains(&name_of(digest))? {
                    let are = if lacking == 1 { "is" } else { "are" };
                    let what = format!("{lacking} of its files {are} not in the cache");
                    each(Finding { path: layers.path_of(&name_of(digest)), what });
                }
            }
            Err(Error::Corrupt { path, reason }) => each(Finding { path, what: reason }),
            Err(err) => return Err(err),
        }
        verified.layers += 1;
    }
    Ok(verified)
}

/// The part of [`verify`] that checks published roots. `meter` first counts the bytes that are read
/// in the roots without a record, and then the compared entries of each root with a record.
pub fn verify_roots(dir: &Path, meter: &Meter, mut each: impl FnMut(Finding)) -> Result<Verified> {
    let top = Dir::open(dir)?;
    let (writable, owners) = (Writable::read(&top)?, Owners::read(&top)?);
    let comparison = Comparison { writable, owners, meter };
    let mut verified = Verified::default();
    let Some(unpacked) = if_exists(top.child(c"unpacked"))? else { return Ok(verified) };
    meter.begin("read", Unit::Bytes, 0);
    for id in taken_over(dir)? {
        let device = unpacked.device()?;
        read_all(&unpacked, &name_of(id), device, meter, &mut each)?;
        verified.taken_over += 1;
    }
    let (Some(roots), Some(layers)) =
        (if_exists(top.child(c"roots"))?, if_exists(top.child(c"layers"))?)
    else {
        return Ok(verified);
    };
    for id in ids(&roots)? {
        verified.roots +=
            u64::from(verify_root(&roots, &layers, &unpacked, &comparison, id, &mut each)?);
    }
    Ok(verified)
}

/// The total size in bytes of all objects and blobs. A file whose size cannot be read is not
/// counted.
fn cached_bytes(top: &Dir) -> Result<u64> {
    let mut bytes = 0;
    let mut add = |dir: &Dir| -> Result<()> {
        let lengths = dir.list()?.into_iter().filter_map(|item| dir.stat(&item.name).ok());
        bytes += lengths.map(|stat| u64::try_from(stat.st_size).unwrap_or(0)).sum::<u64>();
        Ok(())
    };
    if let Some(objects) = if_exists(top.child(c"objects"))? {
        for fan in objects.list()?.iter().filter(|fan| fan.name.to_bytes().len() == 2) {
            if let Some(dir) = if_exists(objects.child(&fan.name))? {
                add(&dir)?;
            }
        }
    }
    if let Some(cache) = if_exists(top.child(c"cache"))? {
        add(&cache)?;
    }
    Ok(bytes)
}

/// Verifies all objects. Returns the digests that the names of the existing objects contain, in
/// hex.
fn verify_objects(
    objects: &Dir,
    verified: &mut Verified,
    meter: &Meter,
    each: &mut dyn FnMut(Finding),
) -> Result<BTreeSet<[u8; 64]>> {
    let mut known = BTreeSet::new();
    for fan in objects.list()? {
        if fan.name.to_bytes().len() != 2 {
            continue;
        }
        let Some(dir) = if_exists(objects.child(&fan.name))? else { continue };
        for item in dir.list()? {
            let Some(content) = hex_of(&item.name) else { continue };
            let found =
                |what: &str| Finding { path: dir.path_of(&item.name), what: what.to_owned() };
            match object_is_sound(&dir, &item.name, meter) {
                Ok(None) => continue,
                Ok(Some((sound, bytes))) => {
                    if !sound {
                        each(found("its contents do not match its name"));
                    }
                    verified.bytes += bytes;
                }
                Err(err) => each(found(&err.to_string())),
            }
            known.insert(content);
            verified.objects += 1;
        }
    }
    Ok(known)
}

/// The digest of the contents in an object's name, in hex. `None` if `name` is not the name of an
/// object.
fn hex_of(name: &CStr) -> Option<[u8; 64]> {
    ObjectName::from_file_name(name)?.as_bytes()[..64].try_into().ok()
}

/// The number of files of a layer that have no object. An object counts if it is in `known`, or if
/// it was created after `known` was collected.
fn lacking(index: &Index, known: &BTreeSet<[u8; 64]>, objects: Option<&Dir>) -> Result<u64> {
    let mut lacking = 0;
    for entry in &index.entries {
        // An empty file needs no object.
        let Kind::File { size: 1.., content } = entry.kind else { continue };
        let content = content.to_string();
        let name: Result<[u8; 64], _> = content.as_bytes().try_into();
        if name.is_ok_and(|name| known.contains(&name)) {
            continue;
        }
        let fan = CString::new(&content[..2]).expect("hex has no NUL");
        let fan = objects.map_or(Ok(None), |objects| if_exists(objects.child(&fan)))?;
        let names = fan.map_or(Ok(Vec::new()), |fan| fan.list())?;
        let begins = |item: &Item| item.name.to_bytes().starts_with(content.as_bytes());
        lacking += u64::from(!names.iter().any(begins));
    }
    Ok(lacking)
}

/// The settings of the agent that last used the directory, and the meter that counts entries.
struct Comparison<'a> {
    writable: Writable,
    owners: Owners,
    meter: &'a Meter,
}

fn merged(indexes: &[Index], comparison: &Comparison<'_>) -> Result<Tree> {
    let mut tree = Tree::default();
    for index in indexes {
        add_layer_owned(&mut tree, index.entries.iter().map(Ok), &comparison.owners)?;
    }
    Ok(tree)
}

/// Reads all files of a root whose expected contents are not known, and reports unreadable files.
fn read_all(
    dir: &Dir,
    name: &CStr,
    device: u64,
    meter: &Meter,
    each: &mut dyn FnMut(Finding),
) -> Result<()> {
    let path = dir.path_of(name);
    let dir = match if_exists(dir.child_within(name)) {
        Ok(None) => return Ok(()),
        Ok(Some(dir)) => dir,
        Err(err) => {
            each(Finding { path, what: err.to_string() });
            return Ok(());
        }
    };
    // A mount is not part of the root.
    if dir.device()? != device {
        return Ok(());
    }
    for item in dir.list()? {
        if item.kind == FileType::Directory {
            read_all(&dir, &item.name, device, meter, each)?;
        } else if item.kind == FileType::RegularFile {
            let read = if_exists(dir.open_file(&item.name)).and_then(|file| {
                let failed = |err| Error::io("read", dir.path_of(&item.name), err);
                let seen = |n| meter.add(n);
                file.map_or(Ok(()), |file| content_of_seen(&file, seen).map(drop).map_err(failed))
            });
            if let Err(err) = read {
                each(Finding { path: dir.path_of(&item.name), what: err.to_string() });
            }
        }
    }
    Ok(())
}

/// Whether an earlier version of the agent extracted at least one of the configuration's layers.
fn is_of_earlier_version(configuration: Option<&Configuration>, layers: &Dir) -> Result<bool> {
    for layer in configuration.into_iter().flat_map(Configuration::layers) {
        if if_exists(layers.open_file(&name_of(layer.digest)))?.is_some_and(is_earlier) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an agent is removing the root `id`, or was interrupted during the removal. A removal
/// first moves the root away, and then removes the record.
fn is_being_removed(roots: &Dir, unpacked: &Dir, id: Digest) -> Result<bool> {
    let moved = unpacked.list()?.iter().any(|item| retired_id(&item.name) == Some(id));
    Ok(moved || !roots.contains(&name_of(id))?)
}

/// Compares a root with the tree of its configuration. Returns `false` if an agent removed the root
/// before or during the comparison.
fn verify_root(
    roots: &Dir,
    layers: &Dir,
    unpacked: &Dir,
    comparison: &Comparison<'_>,
    id: Digest,
    each: &mut dyn FnMut(Finding),
) -> Result<bool> {
    let name = name_of(id);
    let root_path = unpacked.path_of(&name);
    let mut finding = |what: String| each(Finding { path: root_path.clone(), what });
    let mut json = Vec::new();
    let Some(mut record) = if_exists(roots.open_file(&name))? else { return Ok(false) };
    record.read_to_end(&mut json).map_err(|err| Error::io("read", roots.path_of(&name), err))?;
    let Some(root) = if_exists(unpacked.child(&name))? else {
        let is_lost = !is_being_removed(roots, unpacked, id)?;
        if is_lost {
            finding("is missing".to_owned());
        }
        return Ok(is_lost);
    };
    let configuration = Configuration::from_json(&json);
    if is_of_earlier_version(configuration.as_ref().ok(), layers)? {
        let root_path = root_path.display();
        tracing::info!(
            "{root_path} was built by an earlier version of the agent and is not compared"
        );
        return Ok(true);
    }
    let indexes = configuration.and_then(|configuration| {
        let layers = configuration.layers().iter().map(|layer| read_index(layers, layer.digest));
        layers.collect::<Result<Vec<Index>>>()
    });
    let tree = match indexes.and_then(|indexes| merged(&indexes, comparison)) {
        Ok(tree) => tree,
        Err(err) => {
            finding(format!("cannot be compared: {err}"));
            return Ok(true);
        }
    };
    let mut drifts = Vec::new();
    let owner = rustix::process::geteuid().is_root();
    let Comparison { writable, meter, .. } = comparison;
    meter.begin("compared", Unit::Items("entries"), tree.len() as u64);
    let each = |path, drift| drifts.push((path, drift));
    let checked = check(&root, &tree, owner, Scope::All, meter, each);
    if !roots.contains(&name)? {
        return Ok(false);
    }
    checked?;
    let stat = rustix::fs::fstat(&root).map_err(|err| Error::io("stat", &root_path, err))?;
    // If no archive has an entry for the root itself, the root may inherit the group of its parent
    // directory.
    let described = owner && tree.has_owner();
    if !disk::may_be_used_like(&stat, &root_meta(&tree, owner), described) {
        finding("the mode or owner of the root directory was altered".to_owned());
    }
    let written = Written::new(&tree, writable);
    drifts.retain(|(path, _)| !written.has_at(&tree, path));
    for (path, drift) in drifts {
        let what = match drift {
            Drift::Missing => "is missing",
            Drift::Extra => "does not belong to the configuration",
            Drift::Altered | Drift::Other => "was altered",
            Drift::Links => "is not hardlinked to the same names as in its layer",
        };
        finding(format!("{path} {what}"));
    }
    Ok(true)
}
