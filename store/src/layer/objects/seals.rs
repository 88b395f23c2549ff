//! Stores the seals of objects. The seal of an object is the state that its inode had when the
//! object was last known to be sound.
//!
//! With hardlinks, objects are inodes that services can reach. Every change of an inode changes its
//! ctime, which no process can set. Such changes are a write through any name, descriptor or
//! mapping, a new owner, mode or attribute, and a new mtime. So an object is unchanged if its inode
//! number and ctime match its seal. When the agent makes or removes a hardlink, the ctime also
//! changes. So the agent checks the object first, and seals the object again afterwards.
//!
//! An object without a seal may still be sound. The agent reads such an object, and seals it if it
//! is sound.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::Stat;

use super::object_name::ObjectName;

/// The first bytes of the file of seals. The last of these bytes is the version of the format.
const MAGIC: &[u8; 8] = b"dtseals\x01";
/// The length of the id of a boot, in bytes.
const BOOT: usize = 36;
/// The size of a record in the file, in bytes. A record is the hash of an object's name and the
/// object's seal.
const RECORD: usize = 16;
/// The length of the checksum at the end of the file, in bytes.
const CHECKSUM: usize = 16;
/// The seal of an object that this program wrote, and that only this program could reach so far.
const NEW: u64 = 0;
/// A bit of a seal. If the bit is set, no process had the object open for writing at the last
/// check, and the watches have not reported since then that a process opened the object.
const CLOSED: u64 = 1;

/// The seals of all objects. The key of a seal is the hash of the object's name (see
/// [`ObjectName::hash`]).
#[derive(Debug, Default)]
pub struct Seals(Mutex<HashMap<u64, u64>>);

/// The result of comparing an object with its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// No other process can have changed the object.
    Intact,
    /// A process may have changed the object, or the object has no seal.
    Unknown,
}

impl Seals {
    /// Compares the seal of the object with `stat`, the present state of its inode.
    pub fn of(&self, name: &ObjectName, stat: &Stat) -> Sealed {
        match self.lock().get(&name.hash()) {
            Some(&NEW) => Sealed::Intact,
            Some(&seal) if seal & !CLOSED == seal_of(stat) => Sealed::Intact,
            _ => Sealed::Unknown,
        }
    }

    /// Seals a sound object whose inode has the state `stat`. The seal keeps the bit `CLOSED` of
    /// the previous seal. The bit is set for a new object, which no other process can have open.
    pub fn set(&self, name: &ObjectName, stat: &Stat) {
        let mut seals = self.lock();
        let closed = match seals.get(&name.hash()) {
            Some(&NEW) => CLOSED,
            Some(&seal) => seal & CLOSED,
            None => 0,
        };
        seals.insert(name.hash(), seal_of(stat) | closed);
    }

    /// Records that no process has the sealed object open for writing.
    pub fn set_closed(&self, name: &ObjectName) {
        if let Some(seal) = self.lock().get_mut(&name.hash())
            && *seal != NEW
        {
            *seal |= CLOSED;
        }
    }

    /// Whether, according to the seal, no process has the object open for writing.
    pub fn is_closed(&self, name: &ObjectName) -> bool {
        self.lock().get(&name.hash()).is_some_and(|seal| seal & CLOSED != 0)
    }

    /// Records that a process may have opened the object.
    pub fn set_maybe_open(&self, name: &ObjectName) {
        if let Some(seal) = self.lock().get_mut(&name.hash()) {
            *seal &= !CLOSED;
        }
    }

    /// Records that processes may have opened all objects, except the objects that only this
    /// program could reach so far.
    pub fn set_all_maybe_open(&self) {
        self.lock().values_mut().for_each(|seal| *seal &= !CLOSED);
    }

    /// Seals an object that only this program could reach so far.
    pub fn set_new(&self, name: &ObjectName) {
        self.lock().insert(name.hash(), NEW);
    }

    /// Whether only this program could reach the object so far.
    pub fn is_new(&self, name: &ObjectName) -> bool {
        self.lock().get(&name.hash()) == Some(&NEW)
    }

    /// Whether the object has a seal.
    pub fn has(&self, name: &ObjectName) -> bool {
        self.lock().contains_key(&name.hash())
    }

    /// Removes the seal of an object.
    pub fn forget(&self, name: &ObjectName) {
        self.lock().remove(&name.hash());
    }

    /// Encodes the seals for the next run of the program (see [`Seals::read`]). `boot` is the id of
    /// the current boot.
    pub fn to_bytes(&self, boot: &str) -> Vec<u8> {
        let seals = self.lock();
        let mut bytes = Vec::with_capacity(MAGIC.len() + BOOT + seals.len() * RECORD + CHECKSUM);
        bytes.extend(MAGIC);
        bytes.extend(padded(boot));
        for (name, seal) in seals.iter().filter(|(_, seal)| **seal != NEW) {
            bytes.extend(name.to_le_bytes());
            bytes.extend((seal & !CLOSED).to_le_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(&checksum.as_bytes()[..CHECKSUM]);
        bytes
    }

    /// Reads the file of seals that an earlier run of the program wrote. A damaged file is ignored.
    /// A file from an earlier boot is also ignored, because a power cut may have ended that boot.
    /// After a power cut, the disk may have the bytes of a write without the new ctime.
    pub fn read(&self, bytes: &[u8], boot: &str) {
        let head = MAGIC.len() + BOOT;
        let Some(end) = bytes.len().checked_sub(CHECKSUM).filter(|end| *end >= head) else {
            return;
        };
        let (text, checksum) = bytes.split_at(end);
        let whole = blake3::hash(text).as_bytes()[..CHECKSUM] == *checksum;
        if !whole || !text.starts_with(MAGIC) || text[MAGIC.len()..head] != padded(boot) {
            return;
        }
        let (records, _) = text[head..].as_chunks::<RECORD>();
        let number = |bytes: &[u8]| {
            let mut number = [0; 8];
            number.copy_from_slice(bytes);
            u64::from_le_bytes(number)
        };
        let seals = records.iter().map(|record| (number(&record[..8]), number(&record[8..])));
        let seals = seals.map(|(name, seal)| (name, seal & !CLOSED));
        *self.lock() = seals.filter(|(_, seal)| *seal != NEW).collect();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hash of the inode's number and ctime, without the bit [`CLOSED`]. The result is never [`NEW`].
fn seal_of(stat: &Stat) -> u64 {
    let mut hash = 0_u64;
    let times = [i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)];
    let low = |number: i128| u64::try_from(number & i128::from(u64::MAX)).unwrap_or(0);
    for part in [stat.st_ino, low(times[0]), low(times[1])] {
        hash = (hash.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    (hash & !CLOSED).max(CLOSED << 1)
}

fn padded(boot: &str) -> [u8; BOOT] {
    let mut bytes = [0; BOOT];
    let length = boot.len().min(BOOT);
    bytes[..length].copy_from_slice(&boot.as_bytes()[..length]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Dir;
    use crate::inode_meta::Meta;
    use crate::layer::entry::Content;
    use crate::layer::objects::object_name::Naming;

    fn name(text: &str) -> ObjectName {
        Naming::Contents.name(Content::of(text.as_bytes()), &Meta::default(), 0)
    }

    #[test]
    fn any_change_of_an_inode_breaks_its_seal() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let stat = || dir.stat(c"file").unwrap();
        let (seals, object) = (Seals::default(), name("a"));
        assert_eq!(seals.of(&object, &stat()), Sealed::Unknown);
        seals.set_new(&object);
        assert!(seals.is_new(&object));
        assert_eq!(seals.of(&object, &stat()), Sealed::Intact);
        seals.set(&object, &stat());
        assert_eq!(seals.of(&object, &stat()), Sealed::Intact);
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        // On older systems, the clock for file times advances only every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, "TEXT").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(seals.of(&object, &stat()), Sealed::Unknown);
        seals.set(&object, &stat());
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::hard_link(&path, temp.path().join("other")).unwrap();
        assert_eq!(seals.of(&object, &stat()), Sealed::Unknown);
    }

    #[test]
    fn closed_flag_survives_links_but_not_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "text").unwrap();
        let stat = Dir::open(temp.path()).unwrap().stat(c"file").unwrap();
        let (seals, object, other) = (Seals::default(), name("a"), name("b"));
        seals.set_closed(&object);
        assert!(!seals.has(&object) && !seals.is_closed(&object));
        seals.set(&object, &stat);
        assert!(!seals.is_closed(&object), "no check was made");
        seals.set_closed(&object);
        seals.set(&object, &stat);
        seals.set_new(&other);
        assert!(!seals.is_closed(&other));
        seals.set(&other, &stat);
        assert!(seals.is_closed(&object) && seals.is_closed(&other));
        assert_eq!(seals.of(&object, &stat), Sealed::Intact);
        let read = Seals::default();
        read.read(&seals.to_bytes("boot"), "boot");
        assert!(read.has(&object) && !read.is_closed(&object));
        seals.set_maybe_open(&object);
        assert!(!seals.is_closed(&object) && seals.is_closed(&other));
        seals.set_all_maybe_open();
        assert!(!seals.is_closed(&other));
        assert_eq!(seals.of(&other, &stat), Sealed::Intact);
    }

    #[test]
    fn seals_survive_a_restart_but_not_a_reboot() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "text").unwrap();
        let stat = Dir::open(temp.path()).unwrap().stat(c"file").unwrap();
        let (seals, object, other) = (Seals::default(), name("a"), name("b"));
        seals.set(&object, &stat);
        seals.set_new(&other);
        let bytes = seals.to_bytes("boot");
        let again = |bytes: &[u8], boot: &str| {
            let seals = Seals::default();
            seals.read(bytes, boot);
            seals
        };
        let read = again(&bytes, "boot");
        assert_eq!(read.of(&object, &stat), Sealed::Intact);
        assert!(!read.is_new(&other), "the next run cannot know that the object was new");
        assert_eq!(again(&bytes, "another").of(&object, &stat), Sealed::Unknown);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(again(&damaged, "boot").of(&object, &stat), Sealed::Unknown, "byte {at}");
            assert_eq!(again(&bytes[..at], "boot").of(&object, &stat), Sealed::Unknown);
        }
    }
}
