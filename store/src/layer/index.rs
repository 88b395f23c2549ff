//! Encodes and decodes the index of a layer. The index has the layer's entries in archive order,
//! and depends only on these entries. On disk, the index is one file with a format version and a
//! checksum. docs/FORMAT.md describes the layout.

pub mod entries;

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::entry::{Content, Device, Entry, EntryPath, Kind};
use crate::digest::Digest;
use crate::disk::{Dir, fault, name_of};
use crate::error::{Error, Result};
use crate::inode_meta::{Meta, Mtime, Xattr};
use crate::limits::Limits;
use entries::Entries;

/// The first bytes of the file. The last of these bytes is the version of the format.
pub(super) const MAGIC: &[u8; 8] = b"DTINDEX\x02";
pub(super) const CHECKSUM: usize = 32;
/// The number of bytes that are written or read at a time.
const BUFFER: usize = 64 << 10;

/// The entries of one layer, in archive order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Index {
    /// Encodes the index as the bytes of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 128);
        out.extend_from_slice(MAGIC);
        put_u64(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            put_entry(&mut out, entry);
        }
        Self::seal(out)
    }

    /// Appends the checksum of `body` to `body`. The file ends with this checksum.
    pub fn seal(mut body: Vec<u8>) -> Vec<u8> {
        let checksum = blake3::hash(&body);
        body.extend_from_slice(checksum.as_bytes());
        body
    }

    /// Decodes the bytes of a file. `path` is for messages.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let entries = Entries::open(io::Cursor::new(bytes), path)?.collect::<Result<_>>()?;
        Ok(Self { entries })
    }

    /// Formats the index for people and tests, with one line for each entry.
    pub fn to_text(&self) -> String {
        self.entries.iter().map(line).collect()
    }
}

/// Writes an index to a file entry by entry, without holding the whole index in memory.
#[derive(Debug)]
pub struct IndexWriter<F> {
    file: F,
    buffer: Vec<u8>,
    count: u64,
}

impl<F: Read + Write + Seek> IndexWriter<F> {
    /// Begins an index in the empty `file`.
    pub fn new(file: F) -> Self {
        let mut buffer = MAGIC.to_vec();
        // The zero is a placeholder for the number of entries, which `finish` writes.
        put_u64(&mut buffer, 0);
        Self { file, buffer, count: 0 }
    }

    /// Appends the next entry to the file.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        put_entry(&mut self.buffer, entry);
        self.count += 1;
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    /// Completes the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        self.file.write_all(&self.count.to_le_bytes())?;
        self.file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        self.buffer.resize(BUFFER, 0);
        loop {
            match self.file.read(&mut self.buffer)? {
                0 => break,
                n => hasher.update(&self.buffer[..n]),
            };
        }
        self.file.write_all(hasher.finalize().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        fault::step()?;
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn line(entry: &Entry) -> String {
    let Meta { mode, uid, gid, mtime, xattrs } = &entry.meta;
    let what = match &entry.kind {
        Kind::Directory => "dir".to_owned(),
        Kind::File { size, content } => format!("file {size} {content}"),
        Kind::Hardlink(target) => return format!("{:?} link {target:?}\n", entry.path),
        Kind::Symlink(target) => format!("symlink {:?}", super::entry::lossy(target)),
        Kind::Fifo => "fifo".to_owned(),
        Kind::CharDevice(Device { major, minor }) => format!("char {major}:{minor}"),
        Kind::BlockDevice(Device { major, minor }) => format!("block {major}:{minor}"),
    };
    let time = format!("{}.{:09}", mtime.seconds, mtime.nanoseconds);
    let attributes = xattrs
        .iter()
        .fold(String::new(), |text, xattr| text + " " + &super::entry::lossy(&xattr.name));
    format!("{:?} {what} {mode:04o} {uid}:{gid} {time}{attributes}\n", entry.path)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_bytes(out, entry.path.as_bytes());
    match &entry.kind {
        Kind::Directory => out.push(b'd'),
        Kind::File { size, content } => {
            out.push(b'f');
            put_u64(out, *size);
            out.extend_from_slice(&content.0);
        }
        Kind::Hardlink(target) => {
            out.push(b'h');
            put_bytes(out, target.as_bytes());
            return;
        }
        Kind::Symlink(target) => {
            out.push(b'l');
            put_bytes(out, target);
        }
        Kind::Fifo => out.push(b'p'),
        Kind::CharDevice(device) => {
            out.push(b'c');
            put_device(out, *device);
        }
        Kind::BlockDevice(device) => {
            out.push(b'b');
            put_device(out, *device);
        }
    }
    let Meta { mode, uid, gid, mtime, xattrs } = &entry.meta;
    for number in [*mode, *uid, *gid, mtime.nanoseconds] {
        put_u32(out, number);
    }
    put_u64(out, mtime.seconds.cast_unsigned());
    put_u32(out, u32::try_from(xattrs.len()).expect("limited by the header's size"));
    for xattr in xattrs {
        put_bytes(out, &xattr.name);
        put_bytes(out, &xattr.value);
    }
}

fn put_device(out: &mut Vec<u8>, device: Device) {
    put_u32(out, device.major);
    put_u32(out, device.minor);
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).expect("limited by the header's size"));
    out.extend_from_slice(bytes);
}

/// The part of the input that is not decoded yet. Each method returns `None` if too few bytes are
/// left or the bytes are invalid.
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn entry(&mut self) -> Option<Entry> {
        let path = self.path()?;
        let kind = match self.take(1)?[0] {
            b'd' => Kind::Directory,
            b'f' => Kind::File { size: self.u64()?, content: Content(self.array()?) },
            b'h' => {
                let kind = Kind::Hardlink(self.path().filter(|target| !target.is_root())?);
                if path.is_root() {
                    return None;
                }
                return Some(Entry { path, kind, meta: Meta::default() });
            }
            b'l' => Kind::Symlink(self.bytes()?.into()),
            b'p' => Kind::Fifo,
            b'c' => Kind::CharDevice(self.device()?),
            b'b' => Kind::BlockDevice(self.device()?),
            _ => return None,
        };
        if path.is_root() && kind != Kind::Directory {
            return None;
        }
        let (mode, uid, gid, nanoseconds) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let mtime = Mtime { seconds: self.u64()?.cast_signed(), nanoseconds };
        let count = self.u32()?;
        let mut xattrs = Vec::new();
        for _ in 0..count {
            xattrs.push(Xattr { name: self.bytes()?.into(), value: self.bytes()?.into() });
        }
        let meta = Meta { mode, uid, gid, mtime, xattrs: xattrs.into() };
        Some(Entry { path, kind, meta })
    }

    /// Reads and checks a path. The check is needed because any program may have written the file.
    fn path(&mut self) -> Option<EntryPath> {
        let unlimited = Limits { path_len: usize::MAX, depth: usize::MAX, ..Limits::STANDARD };
        let bytes = self.bytes()?;
        let path = EntryPath::from_archive(bytes, unlimited).ok()?;
        (path.as_bytes() == bytes).then_some(path)
    }

    fn device(&mut self) -> Option<Device> {
        Some(Device { major: self.u32()?, minor: self.u32()? })
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Reads the index of the layer `digest` from the directory `layers`.
pub(crate) fn read_index(layers: &Dir, digest: Digest) -> Result<Index> {
    let name = name_of(digest);
    let path = layers.path_of(&name);
    let mut bytes = Vec::new();
    let mut file = layers.open_file(&name)?;
    file.read_to_end(&mut bytes).map_err(|err| Error::io("read", &path, err))?;
    Index::from_bytes(&bytes, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Index {
        let path = |text: &str| EntryPath::from_archive(text.as_bytes(), Limits::STANDARD).unwrap();
        let xattrs = [Xattr { name: (*b"user.x").into(), value: (*b"\0\n").into() }];
        let mtime = Mtime { seconds: -5, nanoseconds: 7 };
        let meta = Meta { mode: 0o4755, uid: 1, gid: 2, mtime, xattrs: xattrs.into() };
        let device = Device { major: 1, minor: 300 };
        let with_meta = [
            ("", Kind::Directory),
            ("d", Kind::Directory),
            ("d/f", Kind::File { size: 3, content: Content([7; 32]) }),
            ("d/l", Kind::Symlink((*b"../x\xff").into())),
            ("p", Kind::Fifo),
            ("c", Kind::CharDevice(device)),
            ("b", Kind::BlockDevice(device)),
        ];
        let mut entries: Vec<_> = with_meta
            .into_iter()
            .map(|(at, kind)| Entry { path: path(at), kind, meta: meta.clone() })
            .collect();
        let (kind, meta) = (Kind::Hardlink(path("d/f")), Meta::default());
        entries.push(Entry { path: path("h"), kind, meta });
        Index { entries }
    }

    #[test]
    fn encoded_index_round_trips() {
        let index = sample();
        assert_eq!(Index::from_bytes(&index.to_bytes(), Path::new("i")).unwrap(), index);
        assert_eq!(index.to_text().lines().count(), 8);
    }

    #[test]
    fn index_written_entry_by_entry_equals_the_whole_index() {
        for entries in [0, 8, 8000] {
            let index =
                Index { entries: sample().entries.into_iter().cycle().take(entries).collect() };
            let mut file = io::Cursor::new(Vec::new());
            let mut writer = IndexWriter::new(&mut file);
            index.entries.iter().for_each(|entry| writer.add(entry).unwrap());
            writer.finish().unwrap();
            assert!(file.into_inner() == index.to_bytes(), "{entries}");
        }
    }

    #[test]
    fn any_changed_byte_is_detected() {
        let good = sample().to_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Index::from_bytes(&bad, Path::new("i")).is_err(), "byte {at}");
            assert!(Index::from_bytes(&good[..at], Path::new("i")).is_err(), "cut at {at}");
        }
        let mut newer = good;
        newer[7] = 9;
        let message = Index::from_bytes(&newer, Path::new("i")).unwrap_err().to_string();
        assert!(message.contains("newer"), "{message}");
    }
}
