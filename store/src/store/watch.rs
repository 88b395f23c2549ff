//! Watching published roots, where files are hardlinked: whoever writes to a file there
//! writes to the object and to the spare. Watched from before anybody could enter it, a
//! root tells of each such file (inotify(7)), and nobody has to look at all of them.
//!
//! Not seen are writes through a mapping whose descriptor is still open, and through
//! names that somebody made outside the root. Objects are compared with what they should
//! be whenever one is placed, and all of them when the next spare is made.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::PoisonError;

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

/// Room for events that are read at once.
const BUFFER: usize = 64 << 10;

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
    /// Watches all directories of `tree`, which the directory at `root` holds.
    pub fn begin(root: &Path, tree: &Tree) -> Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let events = inotify::init(flags).map_err(|err| Error::io("watch", root, err))?;
        let mut watch = Self { events, dirs: HashMap::new() };
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
        let at = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let flags = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let number = inotify::add_watch(&self.events, &at, flags)
            .map_err(|err| Error::io("watch", &at, err))?;
        self.dirs.insert(number, path.clone());
        Ok(())
    }

    /// What happened to files of `tree` since the last call. Files that a service made for
    /// itself are none of them.
    pub fn seen(&self, tree: &Tree) -> Seen {
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
            let names = |name: &CStr| {
                let dir = self.dirs.get(&event.wd());
                dir.is_some_and(|dir| tree.get(&dir.join(name.to_bytes())).is_some())
            };
            // Without a name it is the directory itself, whose own metadata are not shared.
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || event.file_name().is_some_and(names)
            {
                seen = Seen::Something;
            }
        }
    }
}

/// The published roots that are watched, with what they hold.
pub(super) type Watched = HashMap<Digest, (Watch, Tree)>;

impl Store {
    /// Begins to watch the directory `name` of roots, whose tree is `tree`. `None` where
    /// that is of no use, or cannot be done: then all files are looked at each time.
    pub(super) fn watch(&self, name: &CStr, tree: &Tree) -> Option<Watch> {
        if self.placement.mode != LinkMode::Hardlink {
            return None;
        }
        Watch::begin(&self.unpacked.path_of(name), tree)
            .inspect_err(|err| tracing::debug!("roots are not watched: {err}"))
            .ok()
    }

    /// Takes note of a published root.
    pub(super) fn publish_watch(&self, id: Digest, watch: Option<Watch>, tree: &Tree) {
        if let Some(watch) = watch {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.insert(id, (watch, tree.clone()));
        }
    }

    /// Watches the published roots that are not watched yet, and forgets those that are
    /// gone. What happened before is not known.
    pub(super) fn watch_all(&self) -> Result<()> {
        if self.placement.mode != LinkMode::Hardlink {
            return Ok(());
        }
        let published = ids(&self.roots)?;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|id, _| published.contains(id));
        let unwatched = published.into_iter().filter(|id| !watched.contains_key(id));
        let unwatched: Vec<Digest> = unwatched.collect();
        for id in unwatched {
            let Ok(configuration) = self.marked(id) else { continue };
            let tree = self.tree(&configuration)?;
            if let Some(watch) = self.watch(&name_of(id), &tree) {
                watched.insert(id, (watch, tree));
            }
        }
        Ok(())
    }

    /// Whether a file of a published root may have been written to since the last call.
    pub(super) fn was_touched(&self) -> Result<bool> {
        let published = ids(&self.roots)?;
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut touched = false;
        for id in published {
            touched |= match watched.get(&id) {
                Some((watch, tree)) => watch.seen(tree) == Seen::Something,
                None => true,
            };
        }
        Ok(touched)
    }
}
