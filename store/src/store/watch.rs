//! Watching published roots, where files are hardlinked: whoever writes to a file there
//! writes to the object and to the spare. Watched from before anybody could enter it, a
//! root tells of each such file (inotify(7)), and nobody has to look at all of them.
//!
//! The directories of the objects are watched, too. Not seen are writes through a mapping
//! whose descriptor is still open, and through names that somebody made elsewhere. Objects
//! are compared with what they should be when one is first placed, and all of them whenever
//! a spare is built.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Store;
use super::publish::ids;
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
        self.add_for(root, path, WRITTEN)
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
        self.seen_where(|dir, name| {
            let path = dir.join(name.to_bytes());
            tree.get(&path).is_some() && !writable.has(&path)
        })
    }

    fn seen_where(&self, counts: impl Fn(&EntryPath, &CStr) -> bool) -> Seen {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(&self.events, &mut buffer);
        let mut seen = Seen::Nothing;
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return seen,
                Err(Errno::INTR) => continue,
                Err(_) => return Seen::Something,
            };
            let names =
                |name: &CStr| self.dirs.get(&event.wd()).is_some_and(|dir| counts(dir, name));
            // Without a name it is the directory itself, whose own metadata are not shared.
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || event.file_name().is_some_and(names)
            {
                seen = Seen::Something;
            }
        }
    }
}

/// The published roots that are watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// With what they hold.
    roots: HashMap<Digest, (Watch, Tree)>,
    /// The directories that objects are in, against somebody who thinks he may.
    objects: Option<Watch>,
    /// Goes up with each time that something was touched, or may have been.
    touched: u64,
}

impl Store {
    /// Begins to watch the directory `name` of roots, whose tree is `tree`. `None` where
    /// that is of no use, or cannot be done: then all files are looked at each time.
    pub(super) fn watch(&self, name: &CStr, tree: &Tree) -> Option<Watch> {
        if self.placement.mode != LinkMode::Hardlink {
            return None;
        }
        Watch::begin(&self.unpacked.path_of(name), tree).inspect_err(not_watched).ok()
    }

    /// Forgets roots that are gone.
    pub(super) fn unwatch_gone(&self) -> Result<()> {
        let published = ids(&self.roots)?;
        self.watched().roots.retain(|id, _| published.contains(id));
        Ok(())
    }

    /// Takes note of a published root.
    pub(super) fn publish_watch(&self, id: Digest, watch: Option<Watch>, tree: &Tree) {
        if let Some(watch) = watch {
            self.watched().roots.insert(id, (watch, tree.clone()));
        }
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
        let objects = watched.objects.as_ref().map(|watch| watch.seen_where(|_, _| true));
        let (mut known, mut touched) = (objects.is_some(), objects == Some(Seen::Something));
        for id in published {
            match watched.roots.get(&id) {
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
