//! Watching published roots, where files are hardlinked: whoever writes to a file there
//! writes to the object and to the spare. Watched from before anybody could enter it, a
//! root tells of each such file (inotify(7)), and nobody has to look at all of them.
//!
//! The directories of the objects are watched, too, and in every mode those of the spare,
//! in which nobody has any business. Not seen are writes through a mapping
//! whose descriptor is still open, and through names that somebody made elsewhere. Objects
//! are compared with what they should be when one is first placed, and all of them whenever
//! a spare is built.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Store;
use super::publish::{REPLACED, ids};
use crate::digest::Digest;
use crate::disk::name_of;
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::root::tree::{Node, Tree};
use crate::store::LinkMode;
use crate::writable::Writable;

/// Room for events that are read at once.
const BUFFER: usize = 64 << 10;

/// What is done to a file that was written to, or may have been.
const WRITTEN: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM);

/// What is done to a directory whose names nobody may change.
const RENAMED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);

/// A root that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    events: OwnedFd,
    dirs: HashMap<i32, EntryPath>,
}

/// What a watch has seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// No file of the tree was touched.
    Nothing,
    /// Some were, or that cannot be told.
    Something,
}

impl Watch {
    /// Watches nothing yet. `root` is for messages.
    fn new(root: &Path) -> Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let events = inotify::init(flags).map_err(|err| Error::io("watch", root, err))?;
        Ok(Self { events, dirs: HashMap::new() })
    }

    /// Watches all directories of `tree`, which the directory at `root` holds.
    pub fn begin(root: &Path, tree: &Tree) -> Result<Self> {
        let mut watch = Self::new(root)?;
        watch.add(root, &EntryPath::root())?;
        for (path, node) in tree.walk() {
            if matches!(node, Node::Directory(_)) {
                watch.add(root, &path)?;
            }
        }
        Ok(watch)
    }

    /// Watches one more directory of the root.
    pub fn add(&mut self, root: &Path, path: &EntryPath) -> Result<()> {
        self.add_for(root, path, WRITTEN | RENAMED)
    }

    fn add_for(&mut self, root: &Path, path: &EntryPath, what: WatchFlags) -> Result<()> {
        let at = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let flags = what | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        let number = inotify::add_watch(&self.events, &at, flags)
            .map_err(|err| Error::io("watch", &at, err))?;
        self.dirs.insert(number, path.clone());
        Ok(())
    }

    /// What happened to files of `tree` since the last call. Files that a service made for
    /// itself are none of them, nor are those that it may write to.
    pub fn seen(&self, tree: &Tree, writable: &Writable) -> Seen {
        let written = ReadFlags::from_bits_truncate(WRITTEN.bits());
        let mut seen = Seen::Nothing;
        let complete = self.each(|dir, name, what| {
            // Without a name it is the directory itself, whose own metadata are not shared.
            let Some(name) = name.filter(|_| what.intersects(written)) else { return };
            let path = dir.join(name.to_bytes());
            if tree.get(&path).is_some() && !writable.has(&path) {
                seen = Seen::Something;
            }
        });
        if complete { seen } else { Seen::Something }
    }

    /// Whether anything at all happened to a file or a name since the last call.
    fn seen_any(&self) -> Seen {
        let mut seen = Seen::Nothing;
        let complete = self.each(|_, name, _| {
            if name.is_some() {
                seen = Seen::Something;
            }
        });
        if complete { seen } else { Seen::Something }
    }

    /// Where something happened since the last call, the directories themselves included.
    pub fn where_seen(&self) -> BTreeSet<EntryPath> {
        let mut paths = BTreeSet::new();
        let complete = self.each(|dir, name, _| {
            paths.insert(name.map_or_else(|| dir.clone(), |name| dir.join(name.to_bytes())));
        });
        if !complete {
            paths.insert(EntryPath::root());
        }
        paths
    }

    /// Forgets what happened so far.
    pub fn forget(&self) {
        // What could not be read shows at the next look.
        let _ = self.each(|_, _, _| {});
    }

    /// Tells `each` of what happened since the last call: in which directory, to which name
    /// in it (`None`: to the directory itself), and what. Returns whether that is all.
    fn each(&self, mut each: impl FnMut(&EntryPath, Option<&CStr>, ReadFlags)) -> bool {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(&self.events, &mut buffer);
        let mut complete = true;
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return complete,
                Err(Errno::INTR) => continue,
                Err(_) => return false,
            };
            complete &= !event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if let Some(dir) = self.dirs.get(&event.wd()) {
                each(dir, event.file_name(), event.events());
            }
        }
    }
}

/// The published roots that are watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// With what they hold.
    roots: HashMap<Digest, (Watch, Tree)>,
    /// Roots that were replaced and may still be in use, with what they hold where they are
    /// watched.
    aside: Vec<(CString, Option<(Watch, Tree)>)>,
    /// Watches of spares that became roots which need none.
    ended: Vec<Watch>,
    /// The directories that objects are in, against somebody who thinks he may.
    objects: Option<Watch>,
    /// Goes up with each time that something was touched, or may have been.
    touched: u64,
}

impl Store {
    /// Begins to watch the directory `name` of roots, whose tree is `tree`, if what happens
    /// there happens to objects. `None` if not, or if that cannot be done: then all files
    /// are looked at each time.
    pub(super) fn watch(&self, name: &CStr, tree: &Tree) -> Option<Watch> {
        (self.placement.mode == LinkMode::Hardlink).then(|| self.watch_spare(name, tree)).flatten()
    }

    /// Begins to watch a spare.
    pub(super) fn watch_spare(&self, name: &CStr, tree: &Tree) -> Option<Watch> {
        Watch::begin(&self.unpacked.path_of(name), tree).inspect_err(not_watched).ok()
    }

    /// Forgets roots that are gone.
    pub(super) fn unwatch_gone(&self) -> Result<()> {
        let published = ids(&self.roots)?;
        let mut watched = self.watched();
        watched.roots.retain(|id, _| published.contains(id));
        watched.aside.retain(|(name, _)| self.unpacked.contains(name).unwrap_or(true));
        Ok(())
    }

    /// Takes note that what was the root `id` is called `name` from now on.
    pub(super) fn watch_aside(&self, id: Digest, name: CString) {
        if self.placement.mode == LinkMode::Hardlink {
            let mut watched = self.watched();
            let watch = watched.roots.remove(&id);
            watched.aside.push((name, watch));
        }
    }

    /// Takes note of what an earlier agent left aside: nobody watches it.
    pub(super) fn watch_asides(&self) -> Result<()> {
        if self.placement.mode == LinkMode::Hardlink {
            let names = self.unpacked.list()?.into_iter().map(|item| item.name);
            let aside = names.filter(|name| name.to_bytes().starts_with(REPLACED.as_bytes()));
            self.watched().aside = aside.map(|name| (name, None)).collect();
        }
        Ok(())
    }

    /// Takes note of a published root.
    pub(super) fn publish_watch(&self, id: Digest, watch: Option<Watch>, tree: &Tree) {
        let Some(watch) = watch else { return };
        let mut watched = self.watched();
        if self.placement.mode == LinkMode::Hardlink {
            watched.roots.insert(id, (watch, tree.clone()));
        } else {
            watched.ended.push(watch);
        }
    }

    /// Closes the watches that are of no more use, which the system takes its time for.
    pub(super) fn end_watches(&self) {
        let ended = std::mem::take(&mut self.watched().ended);
        drop(ended);
    }

    /// Takes note that an object may have been written to where no watch tells of it.
    pub(super) fn touch(&self) {
        self.watched().touched += 1;
    }

    /// Watches the published roots that are not watched yet, and forgets those that are
    /// gone. What happened before is not known.
    pub(super) fn watch_all(&self) -> Result<()> {
        if self.placement.mode != LinkMode::Hardlink {
            return Ok(());
        }
        self.watch_objects()?;
        let published = ids(&self.roots)?;
        let mut watched = self.watched();
        watched.roots.retain(|id, _| published.contains(id));
        let unwatched = published.into_iter().filter(|id| !watched.roots.contains_key(id));
        let unwatched: Vec<Digest> = unwatched.collect();
        for id in unwatched {
            let Ok(configuration) = self.marked(id) else { continue };
            let tree = self.tree(&configuration)?;
            if let Some(watch) = self.watch(&name_of(id), &tree) {
                watched.roots.insert(id, (watch, tree));
            }
        }
        Ok(())
    }

    /// Watches the directories that objects are in, as many as there are by now.
    pub(super) fn watch_objects(&self) -> Result<()> {
        if self.placement.mode != LinkMode::Hardlink {
            return Ok(());
        }
        let mut watched = self.watched();
        let root = self.objects.path();
        let mut watch = match watched.objects.take() {
            Some(watch) => watch,
            None => Watch::new(root)?,
        };
        for fan in self.objects.fans()? {
            let fan = EntryPath::root().join(fan.to_bytes());
            watch.add_for(root, &fan, WRITTEN | WatchFlags::DELETE | WatchFlags::CREATE)?;
        }
        watched.objects = Some(watch);
        Ok(())
    }

    /// A number that stays the same as long as nobody has written to an object or to a file
    /// of a published root. `None` when that cannot be told.
    pub(super) fn untouched(&self) -> Result<Option<u64>> {
        let published = ids(&self.roots)?;
        let mut watched = self.watched();
        let objects = watched.objects.as_ref().map(Watch::seen_any);
        let (mut known, mut touched) = (objects.is_some(), objects == Some(Seen::Something));
        for id in published {
            match watched.roots.get(&id) {
                Some((watch, tree)) => {
                    touched |= watch.seen(tree, &self.placement.writable) == Seen::Something;
                }
                None => known = false,
            }
        }
        for (_, watch) in &watched.aside {
            match watch {
                Some((watch, tree)) => {
                    touched |= watch.seen(tree, &self.placement.writable) == Seen::Something;
                }
                None => known = false,
            }
        }
        watched.touched += u64::from(touched || !known);
        Ok(known.then_some(watched.touched))
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without a watch every file is looked at each time.
pub(super) fn not_watched(err: &Error) {
    tracing::debug!("roots are not watched: {err}");
}
