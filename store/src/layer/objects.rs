//! Objects: contents of files in the agent's cache, in `objects/ab/…`.
//!
//! Where roots are built by hardlink, an object is a whole inode: its name is the
//! BLAKE3 of its contents and a digest of its metadata, because linked names share
//! both. Elsewhere it is the contents alone. Objects come in batches: written beside
//! the others under temporary names, synced by one barrier, then renamed.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::archive::Body;
use super::entry::Content;
use super::tarball::Piece;
use crate::disk::{self, Dir, temp_name};
use crate::error::{Error, Result};
use crate::meta::Meta;

/// Files up to this size are hashed before they are written, and not written at all
/// when the cache has them.
const SMALL: u64 = 128 << 10;
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
        let fans = (0..256).map(|_| OnceLock::new()).collect();
        Ok(Self { dir, fans, naming })
    }

    /// What names promise here.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The name of the object for a file. Files of one root that are equal but not
    /// linked to each other are told apart by `twin`, from 0, where an object is an
    /// inode.
    pub fn name(&self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        let mut name = content.to_string();
        if let Naming::Inode { owner } = self.naming {
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

    /// Whether the object is here and, as far as its inode tells, what it must be.
    pub fn is_sound(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        let stat = match self.fan(name)?.stat(&name.0) {
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
        let buffer = vec![0; 256 << 10].into();
        Ok(Batch { objects: self, name, staging, written: BTreeSet::new(), buffer })
    }

    fn fan(&self, name: &ObjectName) -> Result<&Dir> {
        let at = name.fan();
        if let Some(dir) = self.fans[at].get() {
            return Ok(dir);
        }
        let fan = CString::new(format!("{at:02x}")).expect("hex has no NUL");
        let dir = self.dir.child_or_make(&fan, 0o700)?;
        Ok(self.fans[at].get_or_init(|| dir))
    }
}

/// Objects that are being written. Dropped before it is published, they are gone.
#[derive(Debug)]
pub struct Batch<'a> {
    objects: &'a Objects,
    name: CString,
    staging: Dir,
    written: BTreeSet<ObjectName>,
    buffer: Box<[u8]>,
}

impl Batch<'_> {
    /// Takes in one file's contents. Empty ones are no objects.
    pub fn write<R: Read>(
        &mut self,
        size: u64,
        meta: &Meta,
        mut body: Body<'_, R>,
    ) -> Result<Content> {
        if size <= SMALL {
            return self.write_small(size, meta, body);
        }
        let temp = temp_name("object");
        let file = self.staging.create_file(&temp, 0o600)?;
        let mut at = 0;
        loop {
            match body.next_piece(&mut self.buffer)? {
                Piece::End => break,
                Piece::Hole(length) => at += length,
                Piece::Data(n) => {
                    let written = file.write_all_at(&self.buffer[..n], at);
                    written.map_err(|err| Error::io("write", self.staging.path_of(&temp), err))?;
                    at += n as u64;
                }
            }
        }
        // A hole at the end is in no write.
        file.set_len(at)
            .map_err(|err| Error::io("set length of", self.staging.path_of(&temp), err))?;
        let content = body.content();
        let name = self.objects.name(content, meta, 0);
        if self.has(&name, size, meta)? {
            self.staging.remove_file(&temp)?;
            return Ok(content);
        }
        self.finish(&file, &temp, meta)?;
        self.staging.rename(&temp, &self.staging, &name.0)?;
        self.written.insert(name);
        Ok(content)
    }

    fn write_small<R: Read>(
        &mut self,
        size: u64,
        meta: &Meta,
        mut body: Body<'_, R>,
    ) -> Result<Content> {
        let mut at = 0;
        loop {
            match body.next_piece(&mut self.buffer[at..])? {
                Piece::End => break,
                Piece::Data(n) => at += n,
                Piece::Hole(length) => {
                    let end = at + usize::try_from(length).expect("small files have small holes");
                    self.buffer[at..end].fill(0);
                    at = end;
                }
            }
        }
        let content = body.content();
        let name = self.objects.name(content, meta, 0);
        if size == 0 || self.has(&name, size, meta)? {
            return Ok(content);
        }
        let mut file = self.staging.create_file(&name.0, 0o600)?;
        file.write_all(&self.buffer[..at])
            .map_err(|err| Error::io("write", self.staging.path_of(&name.0), err))?;
        self.finish(&file, &name.0, meta)?;
        self.written.insert(name);
        Ok(content)
    }

    /// Syncs the whole batch, then makes its objects visible. Returns their number.
    pub fn publish(self) -> Result<u64> {
        self.staging.sync_filesystem()?;
        for name in &self.written {
            self.staging.rename(&name.0, self.objects.fan(name)?, &name.0)?;
        }
        self.objects.dir.sync_filesystem()?;
        Ok(self.written.len() as u64)
    }

    fn has(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        Ok(self.written.contains(name) || self.objects.is_sound(name, size, meta)?)
    }

    fn finish(&self, file: &File, name: &CStr, meta: &Meta) -> Result<()> {
        let path = || self.staging.path_of(name);
        match self.objects.naming {
            Naming::Inode { owner } => disk::set_meta(file, &path, meta, owner),
            Naming::Contents => {
                disk::set_meta(file, &path, &Meta { mode: 0o400, ..Meta::default() }, false)
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // What stays is removed at the next start; there is nobody to tell here.
        let _ = self.objects.dir.remove_tree(&self.name);
    }
}
