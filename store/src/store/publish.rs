//! Building a root and making it visible, complete and synced, under its id.

mod adopt;
pub(super) mod plan;
mod renew;
pub(super) mod reuse;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::spare::{DISCARDED, Made, SPARE, tell_changed};
use super::sweep::leftovers::{Left, remove_all};
use super::{LinkMode, Placed, Root, Store};
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{self, Cloned, Dir, FileType, Fresh, Mounts, digest_of, name_of, temp_name};
use crate::error::{Error, Result};
use crate::layer::entry::Kind;
use crate::layer::objects::object_name::ObjectName;
use crate::learned::Learned;
use crate::meta::Meta;
use crate::meter::Unit;
use crate::owners::Owners;
use crate::root::build::{self, Built, objects_of};
use crate::root::place::Placement;
use crate::root::tree::Tree;
use crate::writable::Writable;

/// Prefix of roots that are being built.
pub(super) const UNFINISHED: &str = ".new";
/// Prefix of roots that are being removed.
pub(super) const RETIRED: &str = ".old";
/// Prefix of what stood where a root was published, with the root's id behind it. A service
/// may run in it, so that it stays until a script has succeeded.
pub(super) const REPLACED: &str = ".replaced";
/// Times that damage is mended before a build gives up.
const MEND_ATTEMPTS: u32 = 3;

impl Store {
    /// Builds and publishes the root of `configuration`, whose layers are extracted;
    /// success at once if it is there. [`Error::NoSuchBlob`] when a layer has to be
    /// extracted again for a damaged object and its blob is gone: fetch it, call
    /// [`Store::extract`] and then this again.
    pub fn root(&self, configuration: &Configuration) -> Result<Root> {
        let id = configuration.id();
        if !self.is_published(id)? {
            return self.rebuild_root(configuration);
        }
        self.settle_pending()?;
        if self.marked(id).is_err() {
            self.mark(configuration)?;
        }
        self.mark_for_go(id)?;
        let (path, placed) = (self.root_path(id), Placed::default());
        let (replaced, changed) = (self.replaced(id)?, Vec::new());
        Ok(Root { id, path, reused: true, from_spare: false, placed, replaced, changed })
    }

    /// As [`Store::root`], but builds the root, whatever stands in its place. That is
    /// exchanged for it in one step when it is complete, and kept (see [`Root::replaced`]).
    pub fn rebuild_root(&self, configuration: &Configuration) -> Result<Root> {
        let id = configuration.id();
        let path = self.root_path(id);
        let tree = self.tree(configuration)?;
        let changed = self.use_spare(&tree);
        let from_spare = changed.is_some();
        let (staging, built, watch) = match changed {
            Some(Made { name, built, watch }) => {
                finish(&self.unpacked.child(&name)?, &tree, self.placement.owner)?;
                (name, built, watch)
            }
            None => {
                // There is no spare that would want what was seen so far.
                self.watch_anew()?;
                let (name, built) = self.mending(&tree, configuration, || self.build(&tree))?;
                let watch = self.watch_shared(&name, &tree);
                (name, built, watch)
            }
        };
        self.publish_pending()?;
        let published = self.publish(id, &staging);
        if published.is_err() {
            self.remove_retired(&staging);
        }
        if let Some(aside) = published? {
            self.watch_aside(id, aside);
        }
        self.publish_watch(id, watch, &tree);
        if self.marked(id).ok().as_ref() != Some(configuration) {
            self.mark(configuration)?;
        }
        self.mark_for_go(id)?;
        tell_changed(&built.changed.into_iter().collect());
        self.placement.learned.write(&self.path)?;
        if !built.skipped.is_empty() {
            let names: Vec<String> = built.skipped.iter().map(|path| format!("{path:?}")).collect();
            tracing::warn!("devices need root and are left out: {}", names.join(", "));
        }
        let (placed, replaced, changed) = (built.placed, self.replaced(id)?, Vec::new());
        Ok(Root { id, path, reused: false, from_spare, placed, replaced, changed })
    }

    /// Has `build` build `tree`. Objects that turn out to be damaged are made again.
    pub(super) fn mending<T>(
        &self,
        tree: &Tree,
        configuration: &Configuration,
        build: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            match build() {
                Err(Error::Corrupt { path, reason }) if attempt < MEND_ATTEMPTS => {
                    tracing::debug!("object {} {reason}: mending the cache", path.display());
                    self.mend(tree, configuration, &path)?;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Whether the root is there and we built it: a directory with the right name and
    /// even with an `.ok` beside it may be half of what another agent left.
    pub(super) fn is_published(&self, id: Digest) -> Result<bool> {
        let name = name_of(id);
        Ok(self.roots.contains(&name)? && is_directory(&self.unpacked, &name)?)
    }

    /// Builds `tree` under a temporary name, synced.
    fn build(&self, tree: &Tree) -> Result<(CString, Built)> {
        let name = self.unpacked.make_temp(UNFINISHED, 0o700)?;
        let done = build_in(tree, &self.objects, self.placement.clone(), &self.unpacked, &name);
        match done {
            Ok(built) => Ok((name, built)),
            Err(err) => {
                // The reason counts; what is left goes at the next start.
                let _ = self.unpacked.remove_tree(&name);
                Err(err)
            }
        }
    }

    /// Renames the finished root to its id. What stood there changes places with it, and its
    /// name is returned. Where anything of that fails, the finished root is under `staging`.
    fn publish(&self, id: Digest, staging: &CStr) -> Result<Option<CString>> {
        let name = name_of(id);
        if !self.unpacked.contains(&name)? {
            return self.unpacked.rename(staging, &self.unpacked, &name).map(|()| None);
        }
        // A mount would go with it, away from where its users know it.
        Mounts::read().check(&self.unpacked, &name, "replace")?;
        let aside = self.free_for_replaced(id)?;
        // Never is what stands there under a name that a start cleans up.
        self.unpacked.rename(staging, &self.unpacked, &aside)?;
        let exchanged = match self.unpacked.exchange(&aside, &name) {
            Ok(false) => self.change_places(&aside, &name),
            other => other.map(drop),
        };
        match exchanged {
            Ok(()) => Ok(Some(aside)),
            Err(err) => {
                self.unpacked.rename(&aside, &self.unpacked, staging)?;
                Err(err)
            }
        }
    }

    /// Where the filesystem cannot exchange two names in one step.
    fn change_places(&self, new: &CStr, name: &CStr) -> Result<()> {
        let before = self.unpacked.move_to_temp(name, &self.unpacked, REPLACED)?;
        if let Err(err) = self.unpacked.rename(new, &self.unpacked, name) {
            self.unpacked.rename(&before, &self.unpacked, name)?;
            return Err(err);
        }
        self.unpacked.rename(&before, &self.unpacked, new)
    }

    /// A name for what is replaced by the root `id`. The first is that of the root that was
    /// in use; after it come those of attempts whose script failed, of which the last is
    /// kept: each script had its chance to leave the ones before.
    fn free_for_replaced(&self, id: Digest) -> Result<CString> {
        let first = replaced_name(id, 0);
        if !self.unpacked.contains(&first)? {
            return Ok(first);
        }
        let mounts = Mounts::read();
        for n in 1.. {
            let name = replaced_name(id, n);
            if !self.unpacked.contains(&name)? {
                return Ok(name);
            }
            if mounts.within(&self.unpacked, &name).is_none()
                && let Ok(gone) = self.unpacked.move_to_temp(&name, &self.unpacked, RETIRED)
            {
                self.remove_retired(&gone);
                return Ok(name);
            }
        }
        Ok(first)
    }

    /// Records that the root of `configuration` is ours and whole, which it is already.
    /// A crash or a full disk may leave a record that cannot be read; the root is whole
    /// then, too, and the next deployment of it writes the record again.
    pub(super) fn mark(&self, configuration: &Configuration) -> Result<()> {
        let name = name_of(configuration.id());
        self.roots.remove_file(&name)?;
        let record = self.roots.create_file(&name, 0o600)?;
        disk::fault::write_all(&record, &configuration.to_json())
            .map_err(|err| Error::io("write", self.roots.path_of(&name), err))
    }

    /// Makes the roots that were published durable: to be called before anybody is told,
    /// for good, that one is deployed. Until then a power cut may take a root away again,
    /// whole.
    pub fn settle(&self) -> Result<()> {
        self.unpacked.sync_filesystem()
    }

    /// The mark that the Go agent looks for beside a root. It says nothing to us.
    pub(super) fn mark_for_go(&self, id: Digest) -> Result<()> {
        match self.unpacked.create_file(&ok_name(id), 0o640) {
            Err(err) if !err.exists() => Err(err),
            _ => Ok(()),
        }
    }

    /// Sets aside every object of `tree` whose contents are not what they must be, and
    /// extracts the layers again that hold one. `found` is the one that was found to be
    /// damaged: if its inode does not tell, no other's may, and all are read.
    fn mend(&self, tree: &Tree, configuration: &Configuration, found: &Path) -> Result<()> {
        let (mut missing, mut damaged) = (BTreeSet::new(), Vec::new());
        let found = found.file_name().map(|name| CString::new(name.as_bytes()));
        let found = found.and_then(|name| ObjectName::from_file_name(&name.ok()?));
        let mut read_all = false;
        for (_, name, file) in objects_of(tree, &self.objects) {
            read_all |=
                Some(name) == found && self.objects.is_sound(&name, file.size, &file.meta)?;
        }
        for (path, name, file) in objects_of(tree, &self.objects) {
            let doubtful = read_all || !self.objects.is_sound(&name, file.size, &file.meta)?;
            if doubtful && !self.objects.has_contents(&name, file.size)? {
                missing.insert(file.content);
                // One that was set aside before, and could not be made again, was told then.
                if self.objects.quarantine(&name, &self.quarantine)?
                    || !self.quarantine.contains(name.as_c_str())?
                {
                    damaged.push(path.to_string());
                }
            }
        }
        if !damaged.is_empty() {
            let files = damaged.len();
            tracing::warn!(
                event = "cache_damaged",
                id = %configuration.id(),
                files,
                "files were changed or removed from outside, and are made again: {}", listed(&damaged)
            );
        }
        self.adopt_renamed(tree, &mut missing)?;
        for layer in configuration.layers() {
            let mut holds = false;
            for entry in self.index(layer.digest)? {
                holds |=
                    matches!(entry?.kind, Kind::File { content, .. } if missing.contains(&content));
            }
            if holds {
                self.extract_anew(layer.digest)?;
            }
        }
        Ok(())
    }
}

/// Builds `tree` in the directory `name` of `parent` and syncs it.
pub(super) fn build_in(
    tree: &Tree,
    objects: &crate::layer::objects::Objects,
    placement: Placement,
    parent: &Dir,
    name: &CStr,
) -> Result<Built> {
    let root = parent.child(name)?;
    let (owner, meter) = (placement.owner, Arc::clone(&placement.meter));
    meter.begin("placed", Unit::Items("entries"), tree.len() as u64);
    let (built, _) = build::build(tree, objects, placement, &root)?;
    finish(&root, tree, owner)?;
    build::adopt_twins(&built, objects, &root)?;
    meter.end();
    Ok(built)
}

/// Opens up a root, when all in it is placed, and syncs it.
fn finish(root: &Dir, tree: &Tree, owner: bool) -> Result<()> {
    describe(root, tree, owner)?;
    root.sync_filesystem()
}

/// Gives a root what its archives say of it, or what we give it.
pub(super) fn describe(root: &Dir, tree: &Tree, owner: bool) -> Result<()> {
    let meta = root_meta(tree, owner);
    if tree.is_described() {
        return disk::set_meta(root, &|| root.path().to_owned(), &meta, owner);
    }
    if owner && tree.has_owner() {
        disk::set_owner(root, &|| root.path().to_owned(), &meta)?;
    }
    root.set_mode(meta.mode)
}

/// What the directory of a root carries. An agent that is not root can always go on with its own.
pub(super) fn root_meta(tree: &Tree, owner: bool) -> Meta {
    let mut meta = tree.root().meta.clone();
    if !owner {
        meta.mode |= 0o700;
    }
    meta
}

/// The first names of many, for a message.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        // Writing to a string cannot fail.
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// The mark of the Go agent beside a root.
pub(super) fn ok_name(id: Digest) -> CString {
    CString::new(format!("{id}.ok")).expect("hex has no NUL")
}

/// The name of what was replaced by the root `id`.
pub(super) fn replaced_name(id: Digest, n: u32) -> CString {
    let name = if n == 0 { format!("{REPLACED}-{id}") } else { format!("{REPLACED}-{id}-{n}") };
    CString::new(name).expect("hex has no NUL")
}

/// Whether a directory, and not a symlink to one, stands under `name`.
pub(super) fn is_directory(dir: &Dir, name: &CStr) -> Result<bool> {
    match dir.stat(name) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(err) if err.is_not_found() => Ok(false),
        Err(err) => Err(err),
    }
}

/// Removes roots that a crash left half built or half removed, and returns what stays.
pub(super) fn clean_up(unpacked: &Dir) -> Result<Vec<Left>> {
    remove_all(unpacked, &TEMPORARY)
}

const PROBE: &str = ".probe";
/// Bytes of the name of an object that is contents alone.
const CONTENTS_NAME: usize = 64;
/// Prefixes of what is no root under its final name.
pub(super) const TEMPORARY: [&str; 5] = [UNFINISHED, RETIRED, PROBE, SPARE, DISCARDED];

/// How files are placed: as asked, or the best that these directories allow, found by
/// trying once.
pub(super) fn placement(top: &Dir, unpacked: &Dir, link: LinkMode) -> Result<Placement> {
    let owner = rustix::process::geteuid().is_root();
    let strict = link != LinkMode::Auto;
    let mode = if strict { link } else { probe(top, unpacked)? };
    let fresh = Fresh::probe(unpacked)?;
    let (writable, learned) = (Writable::read(top)?, Arc::new(Learned::read(top)?));
    let owners = if owner { Owners::read(top)? } else { Owners::default() };
    Ok(Placement { mode, strict, owner, fresh, writable, learned, owners, meter: Arc::default() })
}

fn probe(top: &Dir, unpacked: &Dir) -> Result<LinkMode> {
    let objects = top.child_or_create(c"objects", 0o700)?;
    // The prefix is one that the objects' own cleaning takes, should we die here.
    let (from, to) = (temp_name(".new-probe"), temp_name(PROBE));
    let source = objects.create_file(&from, 0o600)?;
    let mode: Result<LinkMode> = (|| {
        disk::fault::write_all(&source, &[1; 4096])
            .map_err(|err| Error::io("write", objects.path_of(&from), err))?;
        let target = unpacked.create_file(&to, 0o600)?;
        let cloned = disk::clone_contents(&source, &target, 4096)
            .map_err(|err| Error::io("clone to", unpacked.path_of(&to), err))?;
        unpacked.remove_file(&to)?;
        Ok(match cloned {
            Cloned::Whole => LinkMode::Reflink,
            _ if objects.link(&from, unpacked, &to).is_ok() => LinkMode::Hardlink,
            _ => LinkMode::Copy,
        })
    })();
    unpacked.remove_file(&to)?;
    objects.remove_file(&from)?;
    match mode {
        // Whoever frees a full disk has to start first.
        Err(err) if err.is_no_space() => mode_of(&objects)?.ok_or(err),
        other => other,
    }
}

/// How the files of a store were placed so far, by the names of its objects.
fn mode_of(objects: &Dir) -> Result<Option<LinkMode>> {
    for item in objects.list()?.iter().filter(|item| item.name.count_bytes() == 2) {
        for object in objects.child(&item.name)?.list()? {
            if ObjectName::from_file_name(&object.name).is_some() {
                // Where files were copied, they are again, when they cannot be cloned.
                let contents = object.name.count_bytes() == CONTENTS_NAME;
                return Ok(Some(if contents { LinkMode::Reflink } else { LinkMode::Hardlink }));
            }
        }
    }
    Ok(None)
}

/// The ids that names in a directory are.
pub(super) fn ids(dir: &Dir) -> Result<Vec<Digest>> {
    Ok(dir.list()?.iter().filter_map(|item| digest_of(&item.name)).collect())
}
