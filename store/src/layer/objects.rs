//! Manages the objects: the contents of files in the agent's cache, stored as `objects/ab/…`.
//! [`object_name`] describes the names of objects. Objects are created in batches (see [`batch`]).

pub mod batch;
pub mod object_name;
pub mod reason;
pub mod seals;
pub mod writers;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::Stat;

use super::content::content_of;
use super::entry::Content;
use crate::disk::{self, Dir, Writers};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use batch::Staged;
use object_name::{Naming, ObjectName};
use reason::PrivateReason;
use seals::{Sealed, Seals};

/// The number of directories that hold objects. There is one directory for each value of the first
/// byte of a digest.
pub(super) const FANS: usize = 256;
/// The prefix of the name of an unfinished batch's directory.
pub const UNFINISHED: &str = ".new";

/// The objects of one agent.
#[derive(Debug)]
pub struct Objects {
    pub(super) dir: Dir,
    fans: Box<[OnceLock<Dir>]>,
    pub(super) naming: Naming,
    pub(super) seals: Seals,
    /// The batches whose objects may be placed before the batches are published.
    shared: Mutex<Vec<Arc<Staged>>>,
}

/// The result of checking an object before a hardlink to the object is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The object is sound, and no process is known to have the object open for writing.
    Sound,
    /// The object does not exist.
    Missing,
    /// The object's inode must not be shared, because the inode was changed or may soon be changed.
    /// The contents of the object may still be correct.
    Changed(PrivateReason),
}

impl Objects {
    /// Opens `objects` in `parent`. The caller removes unfinished batches.
    pub fn open(parent: &Dir, naming: Naming) -> Result<Self> {
        let dir = parent.child_or_create(c"objects", 0o700)?;
        let fans = (0..FANS).map(|_| OnceLock::new()).collect();
        Ok(Self { dir, fans, naming, seals: Seals::default(), shared: Mutex::default() })
    }

    /// The directory of all objects.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The path of the directory of all objects, for messages and watches.
    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The names of the directories that hold objects, for example `ab`.
    pub fn fans(&self) -> Result<impl Iterator<Item = CString>> {
        let names = self.dir.list()?.into_iter().map(|item| item.name);
        Ok(names.filter(|name| name.to_bytes().len() == 2))
    }

    /// The information that the names of these objects state.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The name of the object for a file (see [`Naming::name`]).
    pub fn name(&self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        self.naming.name(content, meta, twin)
    }

    /// The seals of the objects. Only an agent that uses hardlinks seals objects (see
    /// [`Naming::Inode`]).
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// Checks an object before a hardlink to the object is made. The method compares the object
    /// with its seal. If the seal does not prove that the object is sound, the method reads the
    /// object. Before this call, the caller must record in the seals what the watches reported.
    pub fn look(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<Look> {
        let Some(stat) = self.find(name, |dir| dir.stat(name.as_c_str()))? else {
            return Ok(Look::Missing);
        };
        if self.fits(&stat, size, meta) {
            if self.seals.is_new(name) {
                return Ok(Look::Sound);
            }
            if self.seals.of(name, &stat) == Sealed::Intact {
                return if self.seals.is_closed(name) {
                    Ok(Look::Sound)
                } else {
                    self.look_for_writers(name)
                };
            }
        }
        self.examine(name, size, meta)
    }

    /// Checks whether a process has the object `name` open for writing. The seal of the object is
    /// intact, but such a process could still change the object under all its names.
    fn look_for_writers(&self, name: &ObjectName) -> Result<Look> {
        match self.find(name, |dir| dir.open_file(name.as_c_str()))? {
            Some(file) if disk::writers(&file) == Writers::Some => {
                Ok(Look::Changed(PrivateReason::Open))
            }
            Some(_) => {
                self.seals.set_closed(name);
                Ok(Look::Sound)
            }
            None => Ok(Look::Missing),
        }
    }

    /// Reads an object, and seals it if it is sound.
    fn examine(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<Look> {
        self.seals.forget(name);
        let found = self.find(name, |dir| dir.open_file_and_stat(name.as_c_str()));
        let (file, stat) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Look::Missing),
            // The object is not a regular file.
            Err(Error::Corrupt { .. }) => return Ok(Look::Changed(PrivateReason::Written)),
            Err(err) => return Err(err),
        };
        let path = || self.path_of(name);
        if disk::writers(&file) == Writers::Some {
            return Ok(Look::Changed(PrivateReason::Open));
        }
        let (content, length) = content_of(&file).map_err(|err| Error::io("read", path(), err))?;
        if length != size || !name.as_bytes().starts_with(content.to_string().as_bytes()) {
            return Ok(Look::Changed(PrivateReason::Written));
        }
        let owner = matches!(self.naming, Naming::Inode { owner: true });
        let lists = !disk::gives_lists(&self.dir);
        let attributes =
            self.find(name, |dir| disk::has_attributes(dir, name.as_c_str(), meta, owner, lists))?;
        if !self.fits(&stat, size, meta) || attributes != Some(true) {
            return Ok(Look::Changed(PrivateReason::Metadata));
        }
        let after = rustix::fs::fstat(&file).map_err(|err| Error::io("stat", path(), err))?;
        self.seals.set(name, &stat);
        match self.seals.of(name, &after) {
            Sealed::Intact => {
                self.seals.set_closed(name);
                Ok(Look::Sound)
            }
            Sealed::Unknown => {
                self.seals.forget(name);
                Ok(Look::Changed(PrivateReason::Written))
            }
        }
    }

    /// Whether the object `name` matches its seal. An object without a seal counts as intact,
    /// because the agent reads such an object before the next hardlink to it is made. A missing
    /// object also counts as intact.
    pub fn is_intact(&self, name: &ObjectName) -> Result<bool> {
        if !self.seals.has(name) {
            return Ok(true);
        }
        let stat = self.find(name, |dir| dir.stat(name.as_c_str()))?;
        Ok(stat.is_none_or(|stat| self.seals.of(name, &stat) == Sealed::Intact))
    }

    /// Opens any object with these contents, regardless of its metadata.
    pub fn open_contents(&self, content: Content) -> Result<Option<File>> {
        let plain = Naming::Contents.name(content, &Meta::default(), 0);
        let Some(fan) = self.fan_if_there(plain.fan())? else { return Ok(None) };
        let mut found = None;
        fan.for_each(|name| {
            if found.is_none()
                && ObjectName::from_file_name(name).is_some()
                && name.to_bytes().starts_with(plain.as_bytes())
            {
                found = Some(name.to_owned());
            }
            Ok(())
        })?;
        found.map(|name| fan.open_file(&name)).transpose()
    }

    /// Seals an object again after an operation of this program that changed the object's ctime.
    /// The caller must have checked the object directly before that operation.
    pub fn seal(&self, name: &ObjectName) -> Result<()> {
        match self.find(name, |dir| dir.stat(name.as_c_str()))? {
            Some(stat) => self.seals.set(name, &stat),
            None => self.seals.forget(name),
        }
        Ok(())
    }

    /// Whether the object exists and has the expected size. If the object's name states the
    /// metadata, the inode must also have these metadata.
    pub fn is_sound(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        let stat = self.find(name, |dir| dir.stat(name.as_c_str()))?;
        Ok(stat.is_some_and(|stat| self.fits(&stat, size, meta)))
    }

    fn fits(&self, stat: &Stat, size: u64, meta: &Meta) -> bool {
        match self.naming {
            Naming::Contents => u64::try_from(stat.st_size) == Ok(size),
            Naming::Inode { owner } => disk::carries(stat, size, meta, owner),
        }
    }

    /// Opens an object without a check that the object is a regular file. A later attempt to clone
    /// the object shows whether it is one.
    pub fn open_to_clone(&self, name: &ObjectName) -> Result<Option<File>> {
        self.find(name, |dir| dir.open_any(name.as_c_str()))
    }

    /// Opens an object if it is sound (see [`Objects::is_sound`]).
    pub fn open_object(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<Option<File>> {
        let found = self.find(name, |dir| dir.open_file_and_stat(name.as_c_str()))?;
        Ok(found.filter(|(_, stat)| self.fits(stat, size, meta)).map(|(file, _)| file))
    }

    /// Reads the object. Returns whether the object exists, has `size` bytes, and has the contents
    /// that its name states.
    pub fn has_contents(&self, name: &ObjectName, size: u64) -> Result<bool> {
        let file = match self.open_named(name) {
            Ok(Some(file)) => file,
            // The object is not a regular file.
            Ok(None) | Err(Error::Corrupt { .. }) => return Ok(false),
            Err(err) => return Err(err),
        };
        let (content, length) =
            content_of(&file).map_err(|err| Error::io("read", self.path_of(name), err))?;
        Ok(length == size && name.as_bytes().starts_with(content.to_string().as_bytes()))
    }

    /// Opens the object with this name, even if the object is damaged.
    pub fn open_named(&self, name: &ObjectName) -> Result<Option<File>> {
        self.find(name, |dir| dir.open_file(name.as_c_str()))
    }

    /// Estimates how many bytes on disk a copy of a file needs. The blocks of the file's object
    /// show whether the file has holes. Without an object, the result is `size`.
    pub fn room_of(&self, content: Content, meta: &Meta, size: u64) -> u64 {
        /// Files shorter than this number of bytes are not checked for holes.
        const LARGE: u64 = 16 << 20;
        if size < LARGE {
            return size;
        }
        let found = self.open_named(&self.name(content, meta, 0)).ok().flatten();
        let blocks = found.and_then(|file| file.metadata().ok()).map(|found| found.blocks());
        blocks.map_or(size, |blocks| blocks.saturating_mul(512).min(size))
    }

    /// Creates a hardlink to the object, with the name `to`, in the directory `into`, and seals the
    /// object again. The caller must have checked the object. Returns whether the object exists.
    pub fn link_to(&self, name: &ObjectName, into: &Dir, to: &CStr) -> Result<bool> {
        let linked = self.find(name, |dir| {
            dir.link(name.as_c_str(), into, to)?;
            dir.stat(name.as_c_str())
        })?;
        let Some(stat) = linked else { return Ok(false) };
        self.seals.set(name, &stat);
        Ok(true)
    }

    /// Whether the object is immutable or append-only. The system refuses hardlinks to such an
    /// object.
    pub fn is_fixed(&self, name: &ObjectName) -> Result<bool> {
        Ok(self.find(name, |dir| Ok(dir.is_fixed(name.as_c_str())))?.unwrap_or(false))
    }

    /// Calls `look` with each directory that may hold the object, until the object is found. The
    /// directory of published objects comes first. The directories of shared batches follow.
    fn find<T>(&self, name: &ObjectName, look: impl Fn(&Dir) -> Result<T>) -> Result<Option<T>> {
        let found = |looked: Result<T>| match looked {
            Err(err) if err.is_not_found() => Ok(None),
            other => other.map(Some),
        };
        if let Some(fan) = self.fan_if_there(name.fan())?
            && let Some(found) = found(look(fan))?
        {
            return Ok(Some(found));
        }
        for staged in self.shared().iter() {
            if let Some(found) = found(look(staged.dir_of(name.fan())))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Vec<Arc<Staged>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the synced file `from` in `dir` to the objects, through a hardlink. If the object
    /// already exists, the method succeeds without any change.
    pub fn adopt(&self, name: &ObjectName, dir: &Dir, from: &CStr) -> Result<()> {
        match dir.link(from, self.fan(name)?, name.as_c_str()) {
            Ok(()) => self.seal(name),
            Err(err) if err.exists() => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// Moves a damaged object to `quarantine`. Returns whether the object existed.
    pub fn quarantine(&self, name: &ObjectName, quarantine: &Dir) -> Result<bool> {
        let fan = self.fan(name)?;
        if !fan.contains(name.as_c_str())? {
            return Ok(false);
        }
        // If several damaged objects have the same name, only the last object is kept.
        quarantine.remove_tree(name.as_c_str())?;
        fan.rename(name.as_c_str(), quarantine, name.as_c_str())?;
        self.seals.forget(name);
        Ok(true)
    }

    /// Removes an object.
    pub fn remove(&self, name: &ObjectName) -> Result<()> {
        self.seals.forget(name);
        self.fan(name)?.remove_file(name.as_c_str())
    }

    /// Calls `each` with every object's name, size in bytes and ctime in seconds. The ctime changes
    /// when the object is created, and when a hardlink to the object is made or removed.
    pub fn for_each(&self, mut each: impl FnMut(ObjectName, u64, i64) -> Result<()>) -> Result<()> {
        for fan in self.fans()? {
            let fan = self.dir.child(&fan)?;
            for object in fan.list()? {
                let Some(name) = ObjectName::from_file_name(&object.name) else { continue };
                let stat = fan.stat(&object.name)?;
                each(name, u64::try_from(stat.st_size).unwrap_or(0), stat.st_ctime)?;
            }
        }
        Ok(())
    }

    /// The path of an object, for messages.
    pub fn path_of(&self, name: &ObjectName) -> std::path::PathBuf {
        let text = name.as_c_str().to_string_lossy();
        self.dir.path().join(&text[..2]).join(&*text)
    }

    pub(super) fn fan(&self, name: &ObjectName) -> Result<&Dir> {
        let at = name.fan();
        if let Some(dir) = self.fans[at].get() {
            return Ok(dir);
        }
        let dir = self.dir.child_or_make(&fan_name(at), 0o700)?;
        Ok(self.fans[at].get_or_init(|| dir))
    }

    /// The directory of an object, if the directory exists.
    pub fn fan_of(&self, name: &ObjectName) -> Result<Option<&Dir>> {
        self.fan_if_there(name.fan())
    }

    pub(super) fn fan_if_there(&self, at: usize) -> Result<Option<&Dir>> {
        if let Some(dir) = self.fans[at].get() {
            return Ok(Some(dir));
        }
        match self.dir.child(&fan_name(at)) {
            Err(err) if err.is_not_found() => Ok(None),
            other => other.map(|dir| Some(self.fans[at].get_or_init(|| dir))),
        }
    }
}

pub(super) fn fan_name(at: usize) -> CString {
    CString::new(format!("{at:02x}")).expect("hex has no NUL")
}
