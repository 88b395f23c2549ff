//! Verifying an agent's directory: every object is read and hashed, every index and every
//! published root compared with what it must be. Only looks, takes no lock, and so may
//! run beside an agent; what goes away meanwhile is passed over.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::publish::ids;
use super::sweep::{read_index, there};
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{Dir, name_of};
use crate::error::{Error, Result};
use crate::layer::index::Index;
use crate::layer::objects::ObjectName;
use crate::root::check::{Drift, Scope, check};
use crate::root::merge::merge;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Indexes of layers.
    pub layers: u64,
    /// Published roots.
    pub roots: u64,
}

/// Something that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// Verifies the agent's directory `dir` and tells `each` of what is damaged.
pub fn verify(dir: &Path, mut each: impl FnMut(Finding)) -> Result<Verified> {
    let top = Dir::open(dir)?;
    let mut verified = Verified::default();
    if let Some(objects) = there(top.child(c"objects"))? {
        verify_objects(&objects, &mut verified, &mut each)?;
    }
    let Some(layers) = there(top.child(c"layers"))? else { return Ok(verified) };
    for digest in ids(&layers)? {
        match there(read_index(&layers, digest)) {
            Ok(None) => continue,
            Ok(Some(_)) => {}
            Err(Error::Corrupt { path, reason }) => each(Finding { path, what: reason }),
            Err(err) => return Err(err),
        }
        verified.layers += 1;
    }
    let (Some(roots), Some(unpacked)) =
        (there(top.child(c"roots"))?, there(top.child(c"unpacked"))?)
    else {
        return Ok(verified);
    };
    for id in ids(&roots)? {
        verified.roots += u64::from(verify_root(&roots, &layers, &unpacked, id, &mut each)?);
    }
    Ok(verified)
}

fn verify_objects(
    objects: &Dir,
    verified: &mut Verified,
    each: &mut dyn FnMut(Finding),
) -> Result<()> {
    for fan in objects.list()? {
        if fan.name.to_bytes().len() != 2 {
            continue;
        }
        let Some(dir) = there(objects.child(&fan.name))? else { continue };
        for item in dir.list()? {
            let Some(name) = ObjectName::from_file_name(&item.name) else { continue };
            let path = || dir.path_of(&item.name);
            let found = |what: &str| Finding { path: path(), what: what.to_owned() };
            match there(dir.open_file(&item.name)) {
                Ok(None) => continue,
                Ok(Some(file)) => {
                    let (hash, bytes) = hash(file).map_err(|err| Error::io("read", path(), err))?;
                    if !name.as_bytes().starts_with(hash.to_hex().as_bytes()) {
                        each(found("its contents are not what its name says"));
                    }
                    verified.bytes += bytes;
                }
                Err(_) => each(found("is no file that can be read")),
            }
            verified.objects += 1;
        }
    }
    Ok(())
}

fn hash(mut file: File) -> std::io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finalize(), hasher.count())),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Compares a root with the tree of its configuration. `false` when it went away.
fn verify_root(
    roots: &Dir,
    layers: &Dir,
    unpacked: &Dir,
    id: Digest,
    each: &mut dyn FnMut(Finding),
) -> Result<bool> {
    let name = name_of(id);
    let root_path = unpacked.path_of(&name);
    let mut finding = |what: String| each(Finding { path: root_path.clone(), what });
    let mut json = Vec::new();
    let Some(mut record) = there(roots.open_file(&name))? else { return Ok(false) };
    record.read_to_end(&mut json).map_err(|err| Error::io("read", roots.path_of(&name), err))?;
    let Some(root) = there(unpacked.child(&name))? else {
        finding("is missing".to_owned());
        return Ok(true);
    };
    let indexes = Configuration::from_json(&json).and_then(|configuration| {
        let layers = configuration.layers().iter().map(|layer| read_index(layers, layer.digest));
        layers.collect::<Result<Vec<Index>>>()
    });
    let tree = match indexes.and_then(|indexes| merge(&indexes)) {
        Ok(tree) => tree,
        Err(err) => {
            finding(format!("cannot be compared: {err}"));
            return Ok(true);
        }
    };
    let mut drifts = Vec::new();
    let owner = rustix::process::geteuid().is_root();
    let checked = check(&root, &tree, owner, Scope::All, |path, drift| drifts.push((path, drift)));
    if !roots.contains(&name)? {
        return Ok(false);
    }
    checked?;
    for (path, drift) in drifts {
        let what = match drift {
            Drift::Missing => "is missing",
            Drift::Extra => "is not of the configuration",
            Drift::Altered => "was altered",
        };
        finding(format!("{path} {what}"));
    }
    Ok(true)
}
