//! Objects: contents of files in the agent's cache, in `objects/ab/…`.
//!
//! Where roots are built by hardlink, an object is a whole inode: its name is the
//! BLAKE3 of its contents and a digest of its metadata, because linked names share
//! both. Elsewhere it is the contents alone. They come in batches, see [`super::batch`].

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::Stat;

use super::batch::Staged;
use super::entry::Content;
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::meta::Meta;

/// Directories that objects are in, by the first byte of their names.
pub(super) const FANS: usize = 256;
/// Prefix of the directories of unfinished batches.
pub const UNFINISHED: &str = ".new";

/// The objects of one agent.
#[derive(Debug)]
pub struct Objects {
    pub(super) dir: Dir,
    fans: Box<[OnceLock<Dir>]>,
    pub(super) naming: Naming,
    trusted: Mutex<Trusted>,
    /// Batches that may be placed from before they are published.
    shared: Mutex<Vec<Arc<Staged>>>,
}

/// Objects that nobody can have changed since they were found sound.
#[derive(Debug, Default)]
struct Trusted {
    since: Option<u64>,
    sound: HashSet<u64>,
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
        let mut name = [0; NAME];
        put_hex(&mut name[..64], &content.0);
        if let Self::Inode { owner } = self {
            name[64] = b'-';
            put_hex(&mut name[65..97], &meta.fingerprint(owner));
            if twin > 0 {
                write!(&mut name[97..], "-{twin}").expect("there is room for any number");
            }
        }
        ObjectName(name)
    }
}

impl Naming {
    /// The other way of naming, that of another way of placing files.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Contents => Self::Inode { owner: rustix::process::geteuid().is_root() },
            Self::Inode { .. } => Self::Contents,
        }
    }
}

/// Longest name with its NUL: contents, metadata, twin.
const NAME: usize = (64_usize + 1 + 32 + 1 + 10 + 1).next_multiple_of(8);

/// Name of an object. Building a root makes one for every file: it needs no memory of
/// its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName([u8; NAME]);

impl ObjectName {
    /// The name under which `text` is an object, if it is one.
    pub fn from_file_name(name: &CStr) -> Option<Self> {
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let bytes = name.to_bytes();
        let ok = (64..NAME).contains(&bytes.len()) && bytes[..64].iter().all(hex);
        let mut text = [0; NAME];
        text.get_mut(..bytes.len())?.copy_from_slice(bytes);
        ok.then_some(Self(text))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("the last byte is never used")
    }

    /// A number for tables of many names.
    pub fn hash(&self) -> u64 {
        let (words, _) = self.0.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_ne_bytes(*word));
        // As FxHash does: the text is digests already.
        words.fold(0, |hash, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))
    }

    pub(super) fn fan(&self) -> usize {
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("names are hex") as usize;
        digit(self.0[0]) * 16 + digit(self.0[1])
    }
}

impl std::fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_c_str().fmt(f)
    }
}

fn put_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (two, byte) in text.chunks_exact_mut(2).zip(bytes) {
        two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
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
        Ok(Self { dir, fans, naming, trusted: Mutex::default(), shared: Mutex::default() })
    }

    /// Where they are, for messages.
    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The directories that objects are in.
    pub fn fans(&self) -> Result<impl Iterator<Item = CString>> {
        let names = self.dir.list()?.into_iter().map(|item| item.name);
        Ok(names.filter(|name| name.to_bytes().len() == 2))
    }

    /// What names promise here.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The name of the object for a file, see [`Naming::name`].
    pub fn name(&self, content: Content, meta: &Meta, twin: u32) -> ObjectName {
        self.naming.name(content, meta, twin)
    }

    /// From now on an object that was found sound is taken to be, as long as this is
    /// called with the same `since`; without one, each is looked at each time.
    pub fn trust(&self, since: Option<u64>) {
        let mut trusted = self.trusted();
        if trusted.since != since || since.is_none() {
            *trusted = Trusted { since, sound: HashSet::new() };
        }
    }

    fn trusted(&self) -> MutexGuard<'_, Trusted> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Objects::is_sound`]; see [`Objects::trust`].
    pub fn is_trusted(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<bool> {
        if self.trusted().sound.contains(&name.hash()) {
            return Ok(true);
        }
        let sound = self.is_sound(name, size, meta)?;
        let mut trusted = self.trusted();
        if sound && trusted.since.is_some() {
            trusted.sound.insert(name.hash());
        }
        Ok(sound)
    }

    /// Whether the object is here and, as far as its inode tells, what it must be.
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

    /// Opens an object that is here, whatever stands for it: a clone finds out.
    pub fn open_to_clone(&self, name: &ObjectName) -> Result<Option<File>> {
        self.find(name, |dir| dir.open_any(name.as_c_str()))
    }

    /// Opens an object that is here and sound.
    pub fn open_object(&self, name: &ObjectName, size: u64, meta: &Meta) -> Result<Option<File>> {
        let found = self.find(name, |dir| dir.open_file_and_stat(name.as_c_str()))?;
        Ok(found.filter(|(_, stat)| self.fits(stat, size, meta)).map(|(file, _)| file))
    }

    /// Opens what is here under this name, sound or not.
    pub fn open_named(&self, name: &ObjectName) -> Result<Option<File>> {
        self.find(name, |dir| dir.open_file(name.as_c_str()))
    }

    /// Bytes of disk that a copy of the file takes, as far as its object tells: fewer than its length
    /// where it has holes.
    pub fn room_of(&self, content: Content, meta: &Meta, size: u64) -> u64 {
        /// What is shorter is not looked at.
        const LARGE: u64 = 16 << 20;
        if size < LARGE {
            return size;
        }
        let found = self.open_named(&self.name(content, meta, 0)).ok().flatten();
        let blocks = found.and_then(|file| file.metadata().ok()).map(|found| found.blocks());
        blocks.map_or(size, |blocks| blocks.saturating_mul(512).min(size))
    }

    /// Makes `to` in `into` another name of the object; whether it is here.
    pub fn link_to(&self, name: &ObjectName, into: &Dir, to: &CStr) -> Result<bool> {
        Ok(self.find(name, |dir| dir.link(name.as_c_str(), into, to))?.is_some())
    }

    /// What `look` finds in the directory that has the object: the one that all know, or
    /// that of a shared batch.
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

    /// Takes the synced file `from` in `dir` as an object, by linking it. That there is
    /// one already is success.
    pub fn adopt(&self, name: &ObjectName, dir: &Dir, from: &CStr) -> Result<()> {
        match dir.link(from, self.fan(name)?, name.as_c_str()) {
            Err(err) if !err.exists() => Err(err),
            _ => Ok(()),
        }
    }

    /// Sets a damaged object aside in `quarantine`, to be looked at. Returns whether there
    /// was one.
    pub fn quarantine(&self, name: &ObjectName, quarantine: &Dir) -> Result<bool> {
        let fan = self.fan(name)?;
        if !fan.contains(name.as_c_str())? {
            return Ok(false);
        }
        // Of several damaged ones of a name the last is kept, whatever it is.
        quarantine.remove_tree(name.as_c_str())?;
        fan.rename(name.as_c_str(), quarantine, name.as_c_str())?;
        Ok(true)
    }

    /// Removes an object.
    pub fn remove(&self, name: &ObjectName) -> Result<()> {
        self.fan(name)?.remove_file(name.as_c_str())
    }

    /// Calls `each` with every object's name, size and time of its last change of
    /// status: the time at which it came or was last linked.
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

    /// Where an object is, for messages.
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

    /// The directory that an object is in or would be, if it is there.
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
