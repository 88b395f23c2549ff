//! Watches directories with inotify(7). One inotify instance reports changes in all directories. A
//! second instance reports the first open of a file in each directory.
//!
//! The spare is watched in every mode. No other process has a reason to change the spare, so a
//! changed spare is not used. With hardlinks, the published roots are also watched, because a write
//! to a file of such a root reaches the object and the spare. The directories of objects are
//! watched to detect accidental changes. Events since the last check of the objects are evidence;
//! [`super::doubt`] decides which objects must be checked again.

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

/// The size in bytes of the buffer for events.
const BUFFER: usize = 64 << 10;
/// The maximum number of paths with events that are remembered for each place.
const MOST_NAMES: usize = 10_000;

/// The events that show a possible write to a file, or that a file lost a name by a rename.
const WRITTEN: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM);

/// The events that show created, removed or renamed files, and a moved or removed directory.
const RENAMED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);

/// The first open of a file in a directory. This event matters because a process can map the opened
/// file and write to the mapping without further events. The watch ends after one event, so
/// frequent opens do not cause many events.
const OPENED: WatchFlags = WatchFlags::OPEN.union(WatchFlags::ONESHOT);

/// A watched directory with all directories below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) struct Place(u32);

/// The events in a place since its evidence was last taken.
#[derive(Debug, Default)]
pub(in crate::store) struct Evidence {
    /// Whether events are missing, because there were more events than the system or this program
    /// kept.
    pub lost: bool,
    /// The paths with events. An event of a directory itself counts for the path of the directory.
    pub names: BTreeSet<EntryPath>,
    /// The old names of renamed files.
    pub moved: BTreeSet<EntryPath>,
    /// The directories in which a file was opened.
    pub opened: BTreeSet<EntryPath>,
}

impl Evidence {
    /// Whether there were no events.
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

/// All watches.
#[derive(Debug)]
pub(in crate::store) struct Watcher {
    changes: OwnedFd,
    opens: OwnedFd,
    dirs: HashMap<i32, (Place, EntryPath)>,
    /// The directories in which no open was reported yet.
    waiting: HashMap<i32, (Place, EntryPath)>,
    seen: HashMap<Place, Evidence>,
    next: u32,
}

impl Watcher {
    /// Makes a watcher without watches. `dir` is for messages.
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

    /// Makes a new place without watches.
    pub fn place(&mut self) -> Place {
        self.next += 1;
        let place = Place(self.next);
        self.seen.insert(place, Evidence::default());
        place
    }

    /// Watches all directories of `tree`, which the directory at `root` holds. If `opens` is set,
    /// the watches also report opened files.
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

    /// Watches the directory `path` below `root` as a part of `place`.
    pub fn add(&mut self, place: Place, root: &Path, path: &EntryPath, opens: bool) -> Result<()> {
        let number = add(&self.changes, root, path, WRITTEN | RENAMED)?;
        self.dirs.insert(number, (place, path.clone()));
        if opens { self.wait_for_open(place, root, path) } else { Ok(()) }
    }

    /// Watches a directory in which this program itself creates and removes files.
    pub fn add_busy(&mut self, place: Place, root: &Path, path: &EntryPath) -> Result<()> {
        let number =
            add(&self.changes, root, path, WRITTEN | WatchFlags::DELETE | WatchFlags::CREATE)?;
        self.dirs.insert(number, (place, path.clone()));
        Ok(())
    }

    /// Makes the watcher report the next open in a directory. Call this method again after an open
    /// was reported.
    pub fn wait_for_open(&mut self, place: Place, root: &Path, path: &EntryPath) -> Result<()> {
        let number = add(&self.opens, root, path, OPENED)?;
        self.waiting.insert(number, (place, path.clone()));
        Ok(())
    }

    /// The evidence of a place so far.
    pub fn seen(&mut self, place: Place) -> &Evidence {
        self.read();
        self.seen.entry(place).or_default()
    }

    /// Returns the evidence of a place, and forgets the evidence.
    pub fn take(&mut self, place: Place) -> Evidence {
        self.read();
        self.seen.insert(place, Evidence::default()).unwrap_or_default()
    }

    /// Ends the watches of a place. The call is slow if the place has many directories.
    pub fn end(&mut self, place: Place) {
        self.end_changes(place);
        for number in of_place(&self.waiting, place) {
            let _ = inotify::remove_watch(&self.opens, number);
            self.waiting.remove(&number);
        }
        self.seen.remove(&place);
    }

    /// From now on, the watches in a place report only opens. This program is about to change the
    /// place, and the events of its changes would overflow the queue of events.
    pub fn end_changes(&mut self, place: Place) {
        for number in of_place(&self.dirs, place) {
            // An error means that the directory was removed, which already ended the watch.
            let _ = inotify::remove_watch(&self.changes, number);
            self.dirs.remove(&number);
        }
    }

    /// Reads the events since the last call.
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
            // The open was reported, so the watch ended.
            let Some((place, dir)) = waiting.remove(&number) else { return };
            if what.contains(ReadFlags::IGNORED) {
                // The directory was removed.
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

/// The watch numbers of a place.
fn of_place(dirs: &HashMap<i32, (Place, EntryPath)>, place: Place) -> Vec<i32> {
    dirs.iter().filter_map(|(number, (of, _))| (*of == place).then_some(*number)).collect()
}

/// Watches `path` below `root` for the events `what`. Returns the number of the watch.
fn add(events: &OwnedFd, root: &Path, path: &EntryPath, what: WatchFlags) -> Result<i32> {
    let at = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let flags = what | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
    inotify::add_watch(events, &at, flags).map_err(|err| Error::io("watch", &at, err))
}

/// Calls `each` for every event since the last call. `each` gets the number of the watch, the name
/// in the watched directory (`None` for the directory itself), and the kind of event. Returns
/// `false` if events were lost.
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

/// The files of `tree` that may have another name now, according to `evidence`.
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
