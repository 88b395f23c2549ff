//! Sweeps of an agent's directory: looks at what is there, plans what goes, and removes
//! it. References go before what they refer to, so that a crash leaves garbage, not gaps.

mod listing;
mod plan;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

use super::publish::{RETIRED, ids, ok_name, placement};
use super::spare::DISCARDED;
use super::{LinkMode, Store};
use crate::blobs::Swept;
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{Dir, Lock, name_of, temp_name};
use crate::error::{Error, Result};
use crate::layer::entry::Kind;
use crate::layer::objects::Naming;
use crate::root::tree::{Node, Tree};
use listing::Ground;

pub use listing::taken_over;
pub(super) use listing::{read_index, there};
pub use plan::{Ages, Keep, Kept, Removal, Sweep, What};

/// Plans a sweep of the directory `dir`, which no agent runs on, and unless this is but a
/// rehearsal does it. `link` is how the agent places files there; `keep` is told the
/// published roots, oldest first.
pub fn sweep_alone(
    dir: &Path,
    link: LinkMode,
    rehearsal: bool,
    keep: impl FnOnce(&[Digest]) -> Result<Keep>,
) -> Result<Sweep> {
    let _lock = Lock::take(dir)?;
    let top = Dir::open(dir)?;
    let owner = rustix::process::geteuid().is_root();
    // Where nothing is unpacked there is no way of placing to be found out.
    let link = match (there(top.child(c"unpacked"))?, there(top.child(c"objects"))?) {
        (Some(unpacked), Some(_)) => placement(&top, &unpacked, link)?.mode,
        _ => link,
    };
    let naming = match link {
        LinkMode::Hardlink => Naming::Inode { owner },
        LinkMode::Auto | LinkMode::Reflink | LinkMode::Copy => Naming::Contents,
    };
    let ground = Ground { top, naming, link, owner, spare: None };
    let plan = ground.plan(&keep(&ground.published()?)?)?;
    if !rehearsal {
        ground.sweep(&plan)?;
    }
    Ok(plan)
}

/// Bytes of the files of an extracted layer of the agent's directory `dir`.
pub fn layer_bytes(dir: &Path, layer: Digest) -> Result<u64> {
    let index = read_index(&Dir::open(dir)?.child(c"layers")?, layer)?;
    let sizes = index.entries.iter().map(|entry| match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    });
    Ok(sizes.sum())
}

impl Store {
    /// Plans a sweep.
    pub fn plan_sweep(&self, keep: &Keep) -> Result<Sweep> {
        // Or they would be leftovers.
        self.end_pending();
        self.ground()?.plan(keep)
    }

    /// Does what was planned; nothing may have been made or deployed since.
    pub fn sweep(&self, plan: &Sweep) -> Result<()> {
        self.ground()?.sweep(plan)?;
        self.unwatch_gone()
    }

    fn ground(&self) -> Result<Ground> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Ground {
            top: Dir::open(&self.path)?,
            naming: self.objects.naming(),
            link: self.placement.mode,
            owner: self.placement.owner,
            spare: spare.as_ref().map(|spare| spare.name.clone()),
        })
    }

    /// Removes blobs, layers and objects that neither a configuration in `keep` nor a
    /// published root uses and that were last written before `before`.
    pub fn sweep_cache(&self, keep: &[&Configuration], before: SystemTime) -> Result<Swept> {
        let configurations = keep.iter().map(|&it| (it.clone(), "a configuration")).collect();
        let (before, keep_blobs) = (Some(before), self.keep_blobs);
        let ages = Ages { cache: before, downloads: before, quarantine: before, leftovers: false };
        let cache = Some(ages);
        let plan =
            self.plan_sweep(&Keep { configurations, cache, keep_blobs, ..Keep::default() })?;
        self.sweep(&plan)?;
        Ok(Swept { files: plan.files(), bytes: plan.bytes() })
    }

    /// Removes published roots that are not in `keep`; `files` counts roots.
    pub fn sweep_roots(&self, keep: &[Digest]) -> Result<Swept> {
        let roots = Some(keep.iter().map(|id| (*id, "it is to be kept")).collect());
        let plan = self.plan_sweep(&Keep { roots, ..Keep::default() })?;
        self.sweep(&plan)?;
        Ok(Swept { files: plan.count(What::Root) as u64, bytes: 0 })
    }

    /// Removes the spare root, if there is one. Returns whether there was.
    pub fn remove_spare(&self) -> Result<bool> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(spare) = spare else { return Ok(false) };
        let gone = temp_name(DISCARDED);
        self.unpacked.rename(&spare.name, &self.unpacked, &gone)?;
        self.unpacked.remove_tree(&gone)?;
        Ok(true)
    }

    /// Free bytes of the filesystem.
    pub fn free_bytes(&self) -> Result<u64> {
        self.unpacked.free().map(|(bytes, _)| bytes)
    }

    /// Bytes of the files that the root of `configuration`, whose layers are extracted,
    /// has; none if it is published.
    pub fn root_bytes(&self, configuration: &Configuration) -> Result<u64> {
        if self.is_published(configuration.id())? {
            return Ok(0);
        }
        Ok(bytes_of(&self.tree(configuration)?))
    }

    /// Bytes that [`Store::remove_spare`] would free, directories not counted.
    pub fn spare_bytes(&self) -> u64 {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = self.placement.mode == LinkMode::Copy;
        spare.as_ref().filter(|_| copied).map_or(0, |spare| bytes_of(&spare.tree))
    }

    /// Published roots, oldest first.
    pub fn roots(&self) -> Result<Vec<Digest>> {
        published(&self.roots, &self.unpacked)
    }

    /// What a root was built from, by its record.
    pub fn marked(&self, id: Digest) -> Result<Configuration> {
        use std::io::Read as _;
        let name = name_of(id);
        let mut json = Vec::new();
        self.roots
            .open_file(&name)?
            .read_to_end(&mut json)
            .map_err(|err| Error::io("read", self.roots.path_of(&name), err))?;
        Configuration::from_json(&json)
    }
}

fn bytes_of(tree: &Tree) -> u64 {
    let sizes = tree.walk().map(|(_, node)| match node {
        Node::File(file) => file.size,
        _ => 0,
    });
    sizes.sum()
}

/// The roots with a record, oldest first.
fn published(roots: &Dir, unpacked: &Dir) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for id in ids(roots)? {
        let name = name_of(id);
        if unpacked.contains(&name)? {
            let stat = roots.stat(&name)?;
            found.push((stat.st_mtime, stat.st_mtime_nsec, id));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, _, id)| id).collect())
}

impl Ground {
    fn published(&self) -> Result<Vec<Digest>> {
        match (there(self.top.child(c"roots"))?, there(self.top.child(c"unpacked"))?) {
            (Some(roots), Some(unpacked)) => published(&roots, &unpacked),
            _ => Ok(Vec::new()),
        }
    }

    fn plan(&self, keep: &Keep) -> Result<Sweep> {
        let listing = self.list(keep)?;
        let layers = plan::kept_layers(&listing, keep);
        let needed = match keep.cache {
            Some(_) => self.objects_of(layers.keys(), &listing)?,
            None => Ok(std::collections::BTreeSet::new()),
        };
        let extents_shared = self.link == LinkMode::Reflink;
        Ok(Sweep { extents_shared, ..plan::plan(&listing, keep, &layers, &needed) })
    }

    /// Removes what was planned, in that order. What is gone already is passed over.
    fn sweep(&self, plan: &Sweep) -> Result<()> {
        let mut at: Option<(&Path, Dir)> = None;
        let mut before = None;
        for removal in &plan.removals {
            if before == Some(What::Layer) && removal.what != What::Layer {
                // No object may go before the names of the indexes are gone for good.
                if let Some(layers) = there(self.top.child(c"layers"))? {
                    layers.sync()?;
                }
            }
            before = Some(removal.what);
            let parent = removal.path.parent().unwrap_or(Path::new(""));
            if at.as_ref().is_none_or(|(path, _)| *path != parent) {
                let Some(dir) = self.open(parent)? else { continue };
                at = Some((parent, dir));
            }
            let Some((_, dir)) = &at else { continue };
            let name = removal.path.file_name().unwrap_or_default();
            let name = CString::new(name.as_bytes()).expect("names of files have no NUL");
            match removal.what {
                What::Root => self.remove_root(dir, &name)?,
                _ => dir.remove_tree(&name)?,
            }
        }
        if let Some((_, dir)) = &at {
            dir.sync()?;
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> Result<Option<Dir>> {
        let mut dir = Dir::open(self.top.path())?;
        for part in path.components() {
            let name: &OsStr = part.as_os_str();
            let name = CString::new(name.as_bytes()).expect("names of files have no NUL");
            match there(dir.child(&name))? {
                Some(child) => dir = child,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    fn remove_root(&self, unpacked: &Dir, name: &CString) -> Result<()> {
        if let Some(roots) = there(self.top.child(c"roots"))? {
            roots.remove_file(name)?;
            roots.sync()?;
        }
        let id = name.to_string_lossy().parse::<Digest>()?;
        unpacked.remove_file(&ok_name(id))?;
        let retired = temp_name(RETIRED);
        match unpacked.rename(name, unpacked, &retired) {
            Err(err) if !err.is_not_found() => Err(err),
            _ => unpacked.remove_tree(&retired),
        }
    }
}
