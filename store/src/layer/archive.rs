//! Turns the decompressed bytes of an archive into entries: reads the members, checks their names,
//! enforces the limits, and hashes the contents.

use std::io::Read;

use super::content::ContentHasher;
use super::entry::{Content, Device, Entry, EntryPath, Kind, bad_entry};
use super::tar::header::Flag;
use super::tar::tarball::{Member, Piece, Tarball};
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The maximum length of a symlink's target in bytes. Linux allows 4,096 bytes including the NUL.
const MAX_TARGET: usize = 4095;

/// [`Limits::entries`] times this number is the maximum total size in bytes of all names, targets
/// and attributes of an archive.
const PER_ENTRY: u64 = 256;
/// The total size in bytes of names, targets and attributes that is always allowed, even if
/// [`Limits::entries`] is small.
const ALWAYS: u64 = 64 << 20;

/// The contents of one file in an archive.
pub struct Body<'a, R: Read> {
    tarball: &'a mut Tarball<R>,
    hasher: ContentHasher,
}

impl<R: Read> Body<'_, R> {
    /// Reads the next piece (see [`Tarball::next_piece`]).
    pub fn next_piece(&mut self, buffer: &mut [u8]) -> Result<Piece> {
        let piece = self.tarball.next_piece(buffer)?;
        match piece {
            Piece::Data(n) => {
                self.hasher.update(&buffer[..n]);
            }
            Piece::Hole(length) => self.hasher.skip(length),
            Piece::End => {}
        }
        Ok(piece)
    }

    /// The digest of the contents that were read so far.
    pub fn content(&self) -> Content {
        self.hasher.content()
    }
}

/// Reads the whole archive from its decompressed bytes `plain`, and passes every entry to `each`,
/// in archive order. For a file, `each` also gets the body, and the entry does not have the digest
/// of the contents yet. `each` must either read the body and set the digest, or do neither.
/// `framed` states whether the compressed form has an end mark. If there is an end mark, the
/// decompression detects every truncation.
pub fn read<R: Read>(
    plain: R,
    framed: bool,
    limits: Limits,
    mut each: impl FnMut(Entry, Option<Body<'_, R>>) -> Result<()>,
) -> Result<()> {
    let mut tarball = Tarball::new(plain, framed, limits);
    let (mut entries, mut bytes, mut described) = (0_u64, 0_u64, 0_u64);
    loop {
        let member = match tarball.next_member() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(Error::BadArchive { .. }) if !tarball.is_tar() && tarball.foreign().is_some() => {
                let reason = tarball.foreign().unwrap_or_default().to_owned();
                return Err(Error::BadArchive { reason });
            }
            Err(Error::BadArchive { .. }) if !tarball.is_tar() && !framed => {
                return Err(Error::BadArchive { reason: "is neither gzip, zstd nor tar".into() });
            }
            Err(err) => return Err(err),
        };
        entries += 1;
        bytes = bytes.saturating_add(member.size);
        check(entries, limits.entries, "number of archive entries")?;
        check(bytes, limits.bytes, "size of the unpacked archive")?;
        let entry = entry_of(member, limits)?;
        described = described.saturating_add(described_by(&entry));
        let limit = limits.entries.saturating_mul(PER_ENTRY).max(ALWAYS);
        check(described, limit, "size of all names and attributes of the archive")?;
        let body = matches!(entry.kind, Kind::File { .. })
            .then(|| Body { tarball: &mut tarball, hasher: ContentHasher::default() });
        each(entry, body)?;
    }
    Ok(())
}

/// The size in bytes of an entry's name, target and attributes. The index keeps all these bytes.
fn described_by(entry: &Entry) -> u64 {
    let link = match &entry.kind {
        Kind::Symlink(target) => target.len(),
        Kind::Hardlink(target) => target.as_bytes().len(),
        _ => 0,
    };
    let xattrs = entry.meta.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
    (entry.path.as_bytes().len() + link + xattrs.sum::<usize>()) as u64
}

/// Converts a member to an entry. The member `./`, which is the root itself, must be a directory.
pub fn entry_of(member: Member, limits: Limits) -> Result<Entry> {
    let Member { name, flag, link, size, meta, device: (major, minor) } = member;
    let path = EntryPath::from_archive(&name, limits)?;
    if path.is_root() && flag != Flag::Directory {
        return Err(bad_entry(&name, "stands for the root itself but is not a directory"));
    }
    let kind = match flag {
        Flag::File => Kind::File { size, content: Content::empty() },
        Flag::Directory => Kind::Directory,
        Flag::Fifo => Kind::Fifo,
        Flag::CharDevice => Kind::CharDevice(Device { major, minor }),
        Flag::BlockDevice => Kind::BlockDevice(Device { major, minor }),
        Flag::Symlink => {
            if link.is_empty() || link.len() > MAX_TARGET || link.contains(&0) {
                let reason = "its symlink target is empty, is too long or contains a NUL byte";
                return Err(bad_entry(&name, reason));
            }
            Kind::Symlink(link.into())
        }
        Flag::Hardlink => {
            let target = EntryPath::from_archive(&link, limits);
            let target = target.ok().filter(|target| !target.is_root());
            Kind::Hardlink(target.ok_or_else(|| {
                bad_entry(&name, "its hardlink target is not a name inside the root")
            })?)
        }
    };
    Ok(Entry { path, kind, meta })
}

fn check(count: u64, limit: u64, what: &str) -> Result<()> {
    if count > limit {
        return Err(Error::OverLimit { what: what.to_owned(), limit });
    }
    Ok(())
}
