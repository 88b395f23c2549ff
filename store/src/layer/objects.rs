//! Objects: contents of files in the agent's cache, in `objects/ab/…`.
//!
//! Where roots are built by hardlink, an object is a whole inode: its name is the
//! BLAKE3 of its contents and a digest of its metadata, because linked names share
//! both. Elsewhere it is the contents alone. Objects come in batches: written beside
//! the others under temporary names, synced by one barrier, then renamed. Those of a
//! directory `ab` that is not there yet are renamed all at once, with their directory.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::entry::Content;
use crate::disk::{self, Dir, Fresh, temp_name};
use crate::error::{Error, Result};
use crate::meta::Meta;

/// Permissions of an object that is contents alone.
const PLAIN_MODE: u32 = 0o400;
/// Directories that objects are in, by the first byte of their names.
const FANS: usize = 256;
/// Prefix of the directories of unfinished batches.
pub const UNFINISHED: &str = ".new";

/// The objects of one agent.
#[derive(Debug)]
pub struct Objects {
    dir: Dir,
    fans: Box<[OnceLock<Dir>]>,
    naming: Naming,
}

/// What an object's name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Its contents.
    Contents,
    /// Its contents and what its inode carries, the owner too if `owner`.
    Inode {
        /// Whether owners are restored.
        owner: bool,
    },
}

impl Naming {
    /// The name of the object for a file. Files of one root that are equal but not
    /// linked to each other are told apart by `twin`, from 0, where an object is an
    /// inode.
    pub fn name(self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        let mut name = content.to_string();
        if let Self::Inode { owner } = self {
            name.push('-');
            for byte in meta.fingerprint(owner) {
                write!(name, "{byte:02x}").expect("a string takes any text");
            }
            if twin > 0 {
                write!(name, "-{twin}").expect("a string takes any text");
            }
        }
        ObjectName(CString::new(name).expect("hex has no NUL"))
    }
}

/// Name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(CString);

impl ObjectName {
    /// The name under which `text` is an object, if it is one.
    pub fn from_file_name(name: &CStr) -> Option<Self> {
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let bytes = name.to_bytes();
        let ok = bytes.len() >= 64 && bytes[..64].iter().all(hex);
        ok.then(|| Self(name.to_owned()))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    fn fan(&self) -> usize {
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("names are hex") as usize;
        let bytes = self.0.to_bytes();
        digit(bytes[0]) * 16 + digit(bytes[1])
    }
}

impl Objects {
    /// Opens `objects` in `parent`, and removes what unfinished batches left there.
    pub fn open(parent: &Dir, naming: Naming) -> Result<Self> {
        let dir = parent.child_or_create(c"objects", 0o700)?;
        for item in dir.list()? {
            if item.name.to_bytes().starts_with(UNFINISHED.as_bytes()) {
                dir.remove_tree(&item.name)?;
            }
        }
        let fans = (0..FANS).map(|_| OnceLock::new()).collect();
        Ok(Self { dir, fans, naming })
    }

    /// What names promise here.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The name of the object for a file, see [`Naming::name`].
    pub fn name(&self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        self.naming.name(content, meta, twin)
    }

    /// Whether the object is here and, as far as its inode tells, what it must be.
    pub fn is_sound(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        let Some(fan) = self.fan_if_there(name.fan())? else { return Ok(false) };
        let stat = match fan.stat(&name.0) {
            Err(err) if err.is_not_found() => return Ok(false),
            other => other?,
        };
        Ok(match self.naming {
            Naming::Contents => u64::try_from(stat.st_size) == Ok(size),
            Naming::Inode { owner } => disk::carries(&stat, size, meta, owner),
        })
    }

    /// Opens an object.
    pub fn open_object(&self, name: &ObjectName) -> Result<File> {
        self.fan(name)?.open_file(&name.0)
    }

    /// Makes `to` in `into` another name of the object.
    pub fn link_to(&self, name: &ObjectName, into: &Dir, to: &CStr) -> Result<()> {
        self.fan(name)?.link(&name.0, into, to)
    }

    /// Takes the synced file `from` in `dir` as an object, by linking it. That there is
    /// one already is success.
    pub fn adopt(&self, name: &ObjectName, dir: &Dir, from: &CStr) -> Result<()> {
        match dir.link(from, self.fan(name)?, &name.0) {
            Err(err) if !err.exists() => Err(err),
            _ => Ok(()),
        }
    }

    /// Sets a damaged object aside in `quarantine`, to be looked at.
    pub fn quarantine(&self, name: &ObjectName, quarantine: &Dir) -> Result<()> {
        // Of several damaged ones of a name the last is kept, whatever it is.
        quarantine.remove_tree(&name.0)?;
        match self.fan(name)?.rename(&name.0, quarantine, &name.0) {
            Err(err) if !err.is_not_found() => Err(err),
            _ => Ok(()),
        }
    }

    /// Removes an object.
    pub fn remove(&self, name: &ObjectName) -> Result<()> {
        self.fan(name)?.remove_file(&name.0)
    }

    /// Calls `each` with every object's name, size and time of its last change of
    /// status: the time at which it came or was last linked.
    pub fn for_each(&self, mut each: impl FnMut(ObjectName, u64, i64) -> Result<()>) -> Result<()> {
        for item in self.dir.list()? {
            if item.name.to_bytes().len() != 2 {
                continue;
            }
            let fan = self.dir.child(&item.name)?;
            for object in fan.list()? {
                let Some(name) = ObjectName::from_file_name(&object.name) else { continue };
                let stat = fan.stat(&object.name)?;
                each(name, u64::try_from(stat.st_size).unwrap_or(0), stat.st_ctime)?;
            }
        }
        Ok(())
    }

    /// Where an object is, for messages.
    pub fn path_of(&self, name: &ObjectName) -> std::path::PathBuf {
        let fan = &name.0.to_string_lossy()[..2];
        self.dir.path().join(fan).join(&*name.0.to_string_lossy())
    }

    /// Begins a batch.
    pub fn batch(&self) -> Result<Batch<'_>> {
        let name = temp_name(UNFINISHED);
        self.dir.make_dir(&name, 0o700)?;
        let staging = self.dir.child(&name)?;
        let fresh = Fresh::probe(&staging)?;
        let ahead = staging.syncs_in_parts()?;
        let fans = (0..FANS).map(|_| OnceLock::new()).collect();
        let (written, publishing) = (AtomicU64::new(0), Mutex::new(()));
        Ok(Batch { objects: self, name, staging, fresh, ahead, fans, written, publishing })
    }

    fn fan(&self, name: &ObjectName) -> Result<&Dir> {
        let at = name.fan();
        if let Some(dir) = self.fans[at].get() {
            return Ok(dir);
        }
        let dir = self.dir.child_or_make(&fan_name(at), 0o700)?;
        Ok(self.fans[at].get_or_init(|| dir))
    }

    fn fan_if_there(&self, at: usize) -> Result<Option<&Dir>> {
        if let Some(dir) = self.fans[at].get() {
            return Ok(Some(dir));
        }
        match self.dir.child(&fan_name(at)) {
            Err(err) if err.is_not_found() => Ok(None),
            other => other.map(|dir| Some(self.fans[at].get_or_init(|| dir))),
        }
    }
}

fn fan_name(at: usize) -> CString {
    CString::new(format!("{at:02x}")).expect("hex has no NUL")
}

/// Objects that are being written, by several threads. Dropped before it is published,
/// they are gone.
#[derive(Debug)]
pub struct Batch<'a> {
    objects: &'a Objects,
    name: CString,
    staging: Dir,
    fresh: Fresh,
    /// Whether syncing while writing pays.
    ahead: bool,
    /// For each directory of objects: `Some` stands for it in `staging` when it is not
    /// there yet. Objects of the others are in `staging` itself.
    fans: Box<[OnceLock<Option<Dir>>]>,
    written: AtomicU64,
    /// Held to see whether a name is taken, and to take it.
    publishing: Mutex<()>,
}

impl Batch<'_> {
    /// The name of the object for a file.
    pub fn name(&self, content: Content, meta: &Meta) -> ObjectName {
        self.objects.name(content, meta, 0)
    }

    /// Writes a whole file, unless it is an object already.
    pub fn write_small(&self, name: &ObjectName, bytes: &[u8], meta: &Meta) -> Result<()> {
        let dir = match self.fan(name.fan())? {
            Some(dir) => dir,
            None if self.objects.is_sound(name, bytes.len() as u64, meta)? => return Ok(()),
            None => &self.staging,
        };
        let mode = match self.objects.naming {
            Naming::Inode { .. } => meta.mode,
            Naming::Contents => PLAIN_MODE,
        };
        let mut file = match dir.create_to_write(&name.0, mode & 0o777) {
            // Another file of this layer has the same contents.
            Err(err) if err.exists() => return Ok(()),
            other => other?,
        };
        file.write_all(bytes).map_err(|err| Error::io("write", dir.path_of(&name.0), err))?;
        let path = || dir.path_of(&name.0);
        match self.objects.naming {
            Naming::Inode { owner } => self.fresh.finish(&file, &path, meta, owner)?,
            Naming::Contents => self.fresh.finish_mode(&file, &path, mode)?,
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Begins a file that comes in pieces; its name is known when it is complete.
    pub fn begin(&self) -> Result<Writing<'_>> {
        let name = temp_name("object");
        let file = self.staging.create_to_write(&name, 0o600)?;
        Ok(Writing { batch: self, name, file, at: 0, end: 0 })
    }

    /// Syncs all that was written to the filesystem so far, the whole batch with it.
    pub fn sync(&self) -> Result<()> {
        self.staging.sync_filesystem()
    }

    /// As [`Batch::sync`], with more to come; nothing where that costs more than it saves.
    pub fn sync_ahead(&self) -> Result<()> {
        if self.ahead { self.sync() } else { Ok(()) }
    }

    /// Makes the objects, which are synced, visible. Returns their number. Their names
    /// are for a later barrier to sync.
    pub fn publish(self) -> Result<u64> {
        for (at, fan) in self.fans.iter().enumerate() {
            let Some(Some(dir)) = fan.get() else { continue };
            let name = fan_name(at);
            if !self.staging.rename_new(&name, &self.objects.dir, &name)? {
                // Another batch has made it meanwhile.
                self.publish_from(dir)?;
            }
        }
        self.publish_from(&self.staging)?;
        Ok(self.written.load(Ordering::Relaxed))
    }

    fn publish_from(&self, dir: &Dir) -> Result<()> {
        dir.for_each(|name| match ObjectName::from_file_name(name) {
            Some(name) => dir.rename(&name.0, self.objects.fan(&name)?, &name.0),
            None => Ok(()),
        })
    }

    /// The directory in the staging one that stands for a directory of objects which is
    /// not there yet.
    fn fan(&self, at: usize) -> Result<Option<&Dir>> {
        if let Some(fan) = self.fans[at].get() {
            return Ok(fan.as_ref());
        }
        let made = match self.objects.fan_if_there(at)? {
            Some(_) => None,
            None => Some(self.staging.child_or_make(&fan_name(at), 0o700)?),
        };
        Ok(self.fans[at].get_or_init(|| made).as_ref())
    }
}

/// A file of a batch that comes in pieces.
#[derive(Debug)]
pub struct Writing<'a> {
    batch: &'a Batch<'a>,
    name: CString,
    file: File,
    /// Where the next piece goes.
    at: u64,
    /// Where the last one with bytes in it ended.
    end: u64,
}

impl Writing<'_> {
    /// Writes the next piece.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|err| self.error("write", err))?;
        self.at += bytes.len() as u64;
        self.end = self.at;
        Ok(())
    }

    /// Passes over a hole.
    pub fn skip(&mut self, length: u64) {
        self.at += length;
    }

    /// Completes the file, unless it is an object already.
    pub fn finish(self, name: &ObjectName, size: u64, meta: &Meta) -> Result<()> {
        let batch = self.batch;
        let dir = batch.fan(name.fan())?;
        if dir.is_none() && batch.objects.is_sound(name, size, meta)? {
            return batch.staging.remove_file(&self.name);
        }
        if self.end < self.at {
            // A hole at the end is in no write.
            self.file.set_len(self.at).map_err(|err| self.error("set length of", err))?;
        }
        let path = || batch.staging.path_of(&self.name);
        match batch.objects.naming {
            Naming::Inode { owner } => disk::set_meta(&self.file, &path, meta, owner)?,
            Naming::Contents => disk::set_mode(&self.file, &path, PLAIN_MODE)?,
        }
        let dir = dir.unwrap_or(&batch.staging);
        let _taking = batch.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if dir.contains(&name.0)? {
            return batch.staging.remove_file(&self.name);
        }
        batch.staging.rename(&self.name, dir, &name.0)?;
        batch.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn error(&self, action: &'static str, err: std::io::Error) -> Error {
        Error::io(action, self.batch.staging.path_of(&self.name), err)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // What stays is removed at the next start; there is nobody to tell here.
        let _ = self.objects.dir.remove_tree(&self.name);
    }
}
