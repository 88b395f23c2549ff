//! Sweeps an agent's directory: lists the files, plans the removals, and executes the plan. A sweep
//! removes a reference before its target. So a crash can leave files that are not needed, but no
//! reference to a missing file. The exception is a root, which is moved away before its record is
//! removed. If a crash interrupts this removal, the next sweep or the next start of the agent
//! completes the removal.

mod agent_dir;
mod inventory;
mod keep;
pub(super) mod leftovers;
mod planner;
mod removals;

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

use super::Store;
use super::names::{DISCARDED, ids, is_directory, ok_name, retired_prefix};
use super::publish::probe::placement;
use crate::blobs::Swept;
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{Dir, Lock, Mounts, name_of};
use crate::error::{Error, Result, if_exists};
use crate::layer::entry::Kind;
use crate::layer::index::read_index;
use crate::layer::objects::Objects;
use crate::layer::objects::object_name::Naming;
use crate::root::placing::LinkMode;
use crate::root::tree::{Node, Tree};
use agent_dir::AgentDir;
use leftovers::Left;

/// The maximum number of failed removals in one sweep. One more failure ends the sweep.
const MOST_STUCK: usize = 1000;
/// The maximum number of failed removals that are logged, with one line for each removal.
const MOST_TOLD: usize = 10;

pub use agent_dir::taken_over;
pub use keep::{Ages, Keep};
pub use removals::{Kept, Removal, Sweep, What};

/// A function that is called just before the contents of a root are removed. At that time, the root
/// is already moved away and has no record any more.
type Release<'a> = dyn Fn(&CStr, Digest) + 'a;

/// Plans a sweep of the directory `dir`, which no agent uses. If `rehearsal` is not set, the
/// function also executes the plan. `link` states how the agent places files in the directory.
/// `keep` gets the published roots, oldest first, and returns the rules of the sweep.
pub fn sweep_alone(
    dir: &Path,
    link: LinkMode,
    rehearsal: bool,
    keep: impl FnOnce(&[Digest]) -> Result<Keep>,
) -> Result<Sweep> {
    let _lock = Lock::take(dir)?;
    let top = Dir::open(dir)?;
    let owner = rustix::process::geteuid().is_root();
    // If there are no roots or no objects, the way in which files are placed does not matter.
    let link = match (if_exists(top.child(c"unpacked"))?, if_exists(top.child(c"objects"))?) {
        (Some(unpacked), Some(_)) => placement(&top, &unpacked, link)?.mode,
        _ => link,
    };
    let naming = match link {
        LinkMode::Hardlink => Naming::Inode { owner },
        LinkMode::Auto | LinkMode::Reflink | LinkMode::Copy => Naming::Contents,
    };
    let agent_dir = AgentDir { top, naming, link, owner, spare: None };
    let plan = agent_dir.plan(&keep(&agent_dir.published()?)?)?;
    if rehearsal {
        return Ok(plan);
    }
    let stuck = agent_dir.sweep(&plan, &|_, _| {})?;
    Ok(plan.without(stuck))
}

/// The total size in bytes of the files of an extracted layer in the agent's directory `dir`.
pub fn layer_bytes(dir: &Path, layer: Digest) -> Result<u64> {
    let index = read_index(&Dir::open(dir)?.child(c"layers")?, layer)?;
    let sizes = index.entries.iter().map(|entry| match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    });
    Ok(sizes.sum())
}

impl Store {
    /// Plans a sweep with the rules `keep`.
    pub fn plan_sweep(&self, keep: &Keep) -> Result<Sweep> {
        // Without this call, the pending layers would count as leftovers.
        self.flush_or_drop_pending();
        self.agent_dir()?.plan(keep)
    }

    /// Executes a plan. The caller must not have extracted, built or deployed anything since the
    /// plan was made. Returns the failed removals, for [`Sweep::without`].
    pub fn sweep(&self, plan: &Sweep) -> Result<Vec<Kept>> {
        let release = |retired: &CStr, id| self.release_root(retired, id);
        let stuck = self.agent_dir()?.sweep(plan, &release)?;
        let told = plan.stuck.iter().chain(&stuck).take(MOST_TOLD);
        self.log_leftovers(
            told.map(|it| Left { path: self.path.join(&it.path), why: it.why.clone() }),
        );
        self.end_watches(None)?;
        Ok(stuck)
    }

    fn agent_dir(&self) -> Result<AgentDir> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(AgentDir {
            top: Dir::open(&self.path)?,
            naming: self.objects.naming(),
            link: self.placement.mode,
            owner: self.placement.owner,
            spare: spare.as_ref().map(|spare| spare.name.clone()),
        })
    }

    /// Removes blobs, layers, objects, interrupted downloads and quarantined files that last
    /// changed before `before`. Data that a configuration in `keep` or a published root uses stays.
    pub fn sweep_cache(&self, keep: &[&Configuration], before: SystemTime) -> Result<Swept> {
        let configurations = keep.iter().map(|&it| (it.clone(), "a configuration")).collect();
        let (before, keep_blobs) = (Some(before), self.keep_blobs);
        let ages = Ages { cache: before, downloads: before, quarantine: before, leftovers: false };
        let cache = Some(ages);
        let plan =
            self.plan_sweep(&Keep { configurations, cache, keep_blobs, ..Keep::default() })?;
        let plan = plan.clone().without(self.sweep(&plan)?);
        Ok(Swept { files: plan.files(), bytes: plan.bytes() })
    }

    /// Removes the published roots that are not in `keep`. In the result, `files` is the number of
    /// removed roots, and `bytes` is 0.
    pub fn sweep_roots(&self, keep: &[Digest]) -> Result<Swept> {
        let roots = Some(keep.iter().map(|id| (*id, "it must be kept")).collect());
        let plan = self.plan_sweep(&Keep { roots, ..Keep::default() })?;
        let plan = plan.clone().without(self.sweep(&plan)?);
        Ok(Swept { files: plan.count(What::Root) as u64, bytes: 0 })
    }

    /// Removes the spare root. Returns whether there was a spare.
    pub fn remove_spare(&self) -> Result<bool> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(spare) = spare else { return Ok(false) };
        self.end_watches(spare.watch)?;
        // If a later step fails, the next start of the agent removes the spare.
        let gone = self.unpacked.move_to_temp(&spare.name, &self.unpacked, DISCARDED)?;
        let released = self.unpacked.child(&gone).and_then(|root| self.release(&root, &spare.tree));
        if let Err(err) = released {
            tracing::debug!("objects will be read again: {err}");
        }
        self.remove_retired(&gone);
        Ok(true)
    }

    /// The number of free bytes on the filesystem of the roots.
    pub fn free_bytes(&self) -> Result<u64> {
        self.unpacked.free().map(|(bytes, _)| bytes)
    }

    /// The estimated number of bytes that the root of `configuration` needs if all its files are
    /// copied. The layers must be extracted. If the root is already published, the result is 0.
    pub fn root_bytes(&self, configuration: &Configuration) -> Result<u64> {
        if self.is_published(configuration.id())? {
            return Ok(0);
        }
        Ok(bytes_of(&self.tree(configuration)?, &self.objects))
    }

    /// The estimated number of bytes that [`Store::remove_spare`] would free, without the
    /// directories. If the link mode is not `Copy`, the result is 0.
    pub fn spare_bytes(&self) -> u64 {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = self.placement.mode == LinkMode::Copy;
        spare.as_ref().filter(|_| copied).map_or(0, |spare| bytes_of(&spare.tree, &self.objects))
    }

    /// The published roots, oldest first.
    pub fn roots(&self) -> Result<Vec<Digest>> {
        published(&self.roots, &self.unpacked)
    }

    /// The configuration that a root was built from, according to the record of the root.
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

fn bytes_of(tree: &Tree, objects: &Objects) -> u64 {
    let sizes = tree.walk().map(|(_, node)| match node {
        Node::File(file) => objects.room_of(file.content, &file.meta, file.size),
        _ => 0,
    });
    sizes.sum()
}

/// The roots with a record, oldest first.
fn published(roots: &Dir, unpacked: &Dir) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for id in ids(roots)? {
        let name = name_of(id);
        if is_directory(unpacked, &name)? {
            let stat = roots.stat(&name)?;
            found.push((stat.st_mtime, stat.st_mtime_nsec, id));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, _, id)| id).collect())
}

impl AgentDir {
    fn published(&self) -> Result<Vec<Digest>> {
        match (if_exists(self.top.child(c"roots"))?, if_exists(self.top.child(c"unpacked"))?) {
            (Some(roots), Some(unpacked)) => published(&roots, &unpacked),
            _ => Ok(Vec::new()),
        }
    }

    fn plan(&self, keep: &Keep) -> Result<Sweep> {
        let inventory = self.list(keep)?;
        let layers = planner::kept_layers(&inventory, keep);
        let needed = match keep.cache {
            Some(_) => self.objects_of(layers.keys(), &inventory)?,
            None => Ok(std::collections::BTreeSet::new()),
        };
        let extents_shared = self.link == LinkMode::Reflink;
        Ok(Sweep { extents_shared, ..planner::plan(&inventory, keep, &layers, &needed) })
    }

    /// Executes the planned removals in order, and skips missing files. Returns the failed
    /// removals. After a failure the sweep continues, up to [`MOST_STUCK`] failures. If the index
    /// of a layer cannot be removed, the remaining objects stay, because the index may refer to
    /// these objects.
    fn sweep(&self, plan: &Sweep, release: &Release<'_>) -> Result<Vec<Kept>> {
        let mounts = Mounts::read();
        let (mut stuck, mut layer_stays) = (self.complete_removals()?, None::<String>);
        let mut at: Option<(&Path, Dir)> = None;
        let mut before = None;
        for removal in &plan.removals {
            if before == Some(What::Layer) && removal.what != What::Layer {
                // The removals of indexes must be synced before any object is removed.
                if let Some(layers) = if_exists(self.top.child(c"layers"))? {
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
            let removed = match (removal.what, &layer_stays) {
                (What::Root, _) => self.remove_root(dir, &name, &mounts, release),
                (What::Object, Some(why)) => {
                    Err(Error::io("remove", dir.path_of(&name), std::io::Error::other(why.clone())))
                }
                (What::Object | What::Layer | What::Record, _) => dir.remove_tree(&name),
                (What::Leftover, _) => self.remove_leftover(dir, &name, &mounts),
                _ => dir.remove_unmounted(&name, &mounts),
            };
            let Err(err) = removed else { continue };
            if stuck.len() == MOST_STUCK {
                // So many failures probably have one cause, for example a damaged disk.
                return Err(err);
            }
            if removal.what == What::Layer {
                layer_stays = Some(format!("a layer that may need it was not removed: {err}"));
            }
            stuck.push(removal.stuck(err.to_string()));
        }
        if let Some((_, dir)) = &at {
            dir.sync()?;
        }
        Ok(stuck)
    }

    fn remove_leftover(&self, dir: &Dir, name: &CStr, mounts: &Mounts) -> Result<()> {
        if leftovers::has_record(&self.top, dir, name)? {
            let why = std::io::Error::other("its record in roots/ could not be removed");
            return Err(Error::io("remove", dir.path_of(name), why));
        }
        dir.remove_unmounted(name, mounts)
    }

    /// Completes the interrupted removals of roots. Returns the records that could not be removed.
    fn complete_removals(&self) -> Result<Vec<Kept>> {
        let Some(unpacked) = if_exists(self.top.child(c"unpacked"))? else { return Ok(Vec::new()) };
        let left = leftovers::complete_removals(&self.top, &unpacked)?;
        let kept = |Left { path, why }: Left| {
            let path = path.strip_prefix(self.top.path()).map_or(path.clone(), Path::to_owned);
            Kept { what: What::Record, path, why, count: 1, bytes: 0 }
        };
        Ok(left.into_iter().map(kept).collect())
    }

    fn open(&self, path: &Path) -> Result<Option<Dir>> {
        let mut dir = Dir::open(self.top.path())?;
        for part in path.components() {
            let name: &OsStr = part.as_os_str();
            let name = CString::new(name.as_bytes()).expect("names of files have no NUL");
            match if_exists(dir.child(&name))? {
                Some(child) => dir = child,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Removes a root. A root that cannot be moved away stays unchanged. An incomplete root must
    /// not count as a root. So the method first moves the root and durably removes the root's
    /// record, and then removes the contents of the root.
    fn remove_root(
        &self,
        unpacked: &Dir,
        name: &CStr,
        mounts: &Mounts,
        release: &Release<'_>,
    ) -> Result<()> {
        mounts.check(unpacked, name, "remove")?;
        let id = name.to_string_lossy().parse::<Digest>()?;
        let retired = if_exists(unpacked.move_to_temp(name, unpacked, &retired_prefix(id)))?;
        if let Some(roots) = if_exists(self.top.child(c"roots"))? {
            roots.remove_file(name)?;
            roots.sync()?;
        }
        unpacked.remove_file(&ok_name(id))?;
        retired.map_or(Ok(()), |retired| {
            release(&retired, id);
            unpacked.remove_tree(&retired)
        })
    }
}
