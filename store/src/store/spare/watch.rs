//! Watching directories with inotify(7): one instance for all of them, and one more that
//! tells of a directory's first opened file.
//!
//! In every mode the spare is watched, in which nobody has any business. Where files are
//! hardlinked, published roots are watched, too, as whoever writes to a file there writes to
//! the object and to the spare; and the directories of the objects, against somebody who
//! thinks he may. What happened there since the objects were looked at last is evidence:
//! which of them are to be looked at again is decided in [`super::doubt`].

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::root::tree::{File, Node, Tree};

/// Room for events that are read at once.
const BUFFER: usize = 64 << 10;
/// Names of which is kept what happened to them, for each root.
const MOST_NAMES: usize = 10_000;

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

/// The first file that is opened: it may be mapped and written to without a word. Who opens
/// files all the time costs one event.
const OPENED: WatchFlags = WatchFlags::OPEN.union(WatchFlags::ONESHOT);

/// A watched directory with all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) struct Place(u32);

/// What happened in a place.
#[derive(Debug, Default)]
pub(in crate::store) struct Evidence {
    /// More happened than can be told.
    pub lost: bool,
    /// Names that something happened to; a directory's own path stands for itself.
    pub names: BTreeSet<EntryPath>,
    /// Names that files no longer have.
    pub moved: BTreeSet<EntryPath>,
    /// Directories in which a file was opened.
    pub opened: BTreeSet<EntryPath>,
}

impl Evidence {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        !self.lost && self.names.is_empty() && self.opened.is_empty()
    }

    fn add(&mut self, path: EntryPath, moved: bool) {
        if self.names.len() >= MOST_NAMES {
            self.lost = true;
            return;
        }
        if moved {
            self.moved.insert(path.clone());
        }
        self.names.insert(path);
    }
}

/// All that is watched.
#[derive(Debug)]
pub(in crate::store) struct Watcher {
    changes: OwnedFd,
    opens: OwnedFd,
    dirs: HashMap<i32, (Place, EntryPath)>,
    /// Directories whose first open is waited for.
    waiting: HashMap<i32, (Place, EntryPath)>,
    seen: HashMap<Place, Evidence>,
    next: u32,
}

impl Watcher {
    /// Watches nothing yet. `dir` is for messages.
    pub fn new(dir: &Path) -> Result<Self> {
        let init = || {
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|err| Error::io("watch", dir, err))
        };
        Ok(Self {
            changes: init()?,
            opens: init()?,
            dirs: HashMap::new(),
            waiting: HashMap::new(),
            seen: HashMap::new(),
            next: 0,
        })
    }

    /// A new place, in which nothing is watched yet.
    pub fn place(&mut self) -> Place {
        self.next += 1;
        let place = Place(self.next);
        self.seen.insert(place, Evidence::default());
        place
    }

    /// Watches all directories of `tree`, which the directory at `root` holds; with `opens`
    /// also who opens files there.
    pub fn watch_tree(&mut self, root: &Path, tree: &Tree, opens: bool) -> Result<Place> {
        let place = self.place();
        let all = self.add(place, root, &EntryPath::root(), opens).and_then(|()| {
            tree.walk()
                .filter(|(_, node)| matches!(node, Node::Directory(_)))
                .try_for_each(|(path, _)| self.add(place, root, &path, opens))
        });
        match all {
            Ok(()) => Ok(place),
            Err(err) => {
                self.end(place);
                Err(err)
            }
        }
    }

    /// Watches one more directory of a place.
    pub fn add(&mut self, place: Place, root: &Path, path: &EntryPath, opens: bool) -> Result<()> {
        let number = add(&self.changes, root, path, WRITTEN | RENAMED)?;
        self.dirs.insert(number, (place, path.clone()));
        if opens { self.wait_for_open(place, root, path) } else { Ok(()) }
    }

    /// Watches a directory in which files come and go by our own hand.
    pub fn add_busy(&mut self, place: Place, root: &Path, path: &EntryPath) -> Result<()> {
        let number =
            add(&self.changes, root, path, WRITTEN | WatchFlags::DELETE | WatchFlags::CREATE)?;
        self.dirs.insert(number, (place, path.clone()));
        Ok(())
    }

    /// Waits for the next open in a directory, whose last one was told.
    pub fn wait_for_open(&mut self, place: Place, root: &Path, path: &EntryPath) -> Result<()> {
        let number = add(&self.opens, root, path, OPENED)?;
        self.waiting.insert(number, (place, path.clone()));
        Ok(())
    }

    /// What happened in a place so far.
    pub fn seen(&mut self, place: Place) -> &Evidence {
        self.read();
        self.seen.entry(place).or_default()
    }

    /// The same, and forgets it.
    pub fn take(&mut self, place: Place) -> Evidence {
        self.read();
        self.seen.insert(place, Evidence::default()).unwrap_or_default()
    }

    /// Ends watching a place. The system takes its time for that.
    pub fn end(&mut self, place: Place) {
        self.end_changes(place);
        for number in of_place(&self.waiting, place) {
            let _ = inotify::remove_watch(&self.opens, number);
            self.waiting.remove(&number);
        }
        self.seen.remove(&place);
    }

    /// Watches only who opens files in a place from now on: we are about to change it
    /// ourselves, which would be more than the system keeps.
    pub fn end_changes(&mut self, place: Place) {
        for number in of_place(&self.dirs, place) {
            // It is gone with its directory, if that is gone.
            let _ = inotify::remove_watch(&self.changes, number);
            self.dirs.remove(&number);
        }
    }

    /// Takes in what happened since the last call.
    fn read(&mut self) {
        let (dirs, seen) = (&mut self.dirs, &mut self.seen);
        let mut ended = Vec::new();
        let complete = each(&self.changes, |number, name, what| {
            let Some((place, dir)) = dirs.get(&number) else { return };
            if what.contains(ReadFlags::IGNORED) {
                ended.push(number);
                return;
            }
            let Some(evidence) = seen.get_mut(place) else { return };
            let path = name.map_or_else(|| dir.clone(), |name| dir.join(name.to_bytes()));
            evidence.add(path, what.contains(ReadFlags::MOVED_FROM));
        });
        for number in ended {
            dirs.remove(&number);
        }
        let waiting = &mut self.waiting;
        let complete = each(&self.opens, |number, _, what| {
            // It waits no more.
            let Some((place, dir)) = waiting.remove(&number) else { return };
            if what.contains(ReadFlags::IGNORED) {
                // The directory is gone.
                return;
            }
            if let Some(evidence) = seen.get_mut(&place) {
                evidence.opened.insert(dir);
            }
        }) && complete;
        if !complete {
            for evidence in seen.values_mut() {
                evidence.lost = true;
            }
        }
    }
}

/// The numbers of the directories of a place.
fn of_place(dirs: &HashMap<i32, (Place, EntryPath)>, place: Place) -> Vec<i32> {
    dirs.iter().filter_map(|(number, (of, _))| (*of == place).then_some(*number)).collect()
}

/// Watches `path` below `root` for `what`; returns the number that events of it have.
fn add(events: &OwnedFd, root: &Path, path: &EntryPath, what: WatchFlags) -> Result<i32> {
    let at = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let flags = what | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
    inotify::add_watch(events, &at, flags).map_err(|err| Error::io("watch", &at, err))
}

/// Tells `each` of what happened since the last call: the number of the directory, the name
/// in it (`None`: the directory itself), and what. Returns whether that is all.
fn each(events: &OwnedFd, mut each: impl FnMut(i32, Option<&CStr>, ReadFlags)) -> bool {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut events = Reader::new(events, &mut buffer);
    let mut complete = true;
    loop {
        match events.next() {
            Ok(event) => {
                complete &= !event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                each(event.wd(), event.file_name(), event.events());
            }
            Err(Errno::AGAIN) => return complete,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The files of `tree` that somebody may have by another name.
pub(super) fn moved_files<'a>(
    tree: &'a Tree,
    evidence: &'a Evidence,
) -> impl Iterator<Item = (&'a EntryPath, &'a File)> {
    evidence.moved.iter().filter_map(|path| Some((path, file_at(tree, path)?)))
}

/// The file of `tree` at `path`.
pub(super) fn file_at<'a>(tree: &'a Tree, path: &EntryPath) -> Option<&'a File> {
    match tree.get(path) {
        Some(Node::File(file)) => Some(file),
        _ => None,
    }
}
