//! Lists a layer: the members of its tar and their positions. A listing is compact, because an
//! image may have a hundred layers with thousands of files each.

use std::io::Read;
use std::mem::size_of;
use std::ops::Range;

use deploy_store::layer::archive::entry_of;
use deploy_store::layer::entry::{EntryPath, Kind};
use deploy_store::layer::tar::tarball::Tarball;
use deploy_store::{Digest, Error, Limits, Result};

use super::budget::{Budget, Share};

/// The members of one layer, in the order of its tar.
#[derive(Debug, Default)]
pub struct Listing {
    /// The paths and link targets, one after another.
    text: Vec<u8>,
    records: Vec<Record>,
    /// The share of the memory budget that the listing takes.
    share: Option<Share>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    start: u64,
    end: u64,
    text: u32,
    path: u16,
    link: u16,
    sort: Sort,
}

/// The number of bytes of a record in an encoded listing.
const ENCODED: usize = 25;

impl Record {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (start, bytes) = bytes.split_first_chunk()?;
        let (end, bytes) = bytes.split_first_chunk()?;
        let (text, bytes) = bytes.split_first_chunk()?;
        let (path, bytes) = bytes.split_first_chunk()?;
        let (link, bytes) = bytes.split_first_chunk()?;
        Some(Self {
            start: u64::from_le_bytes(*start),
            end: u64::from_le_bytes(*end),
            text: u32::from_le_bytes(*text),
            path: u16::from_le_bytes(*path),
            link: u16::from_le_bytes(*link),
            sort: *Sort::ALL.get(usize::from(*bytes.first()?))?,
        })
    }
}

/// The kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A hardlink: another name of the file that the link leads to.
    Hardlink,
    /// A symlink.
    Symlink,
    /// A fifo.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Sort {
    /// All kinds, in the order of their numbers in an encoded listing.
    const ALL: [Self; 7] = [
        Self::Directory,
        Self::File,
        Self::Hardlink,
        Self::Symlink,
        Self::Fifo,
        Self::CharDevice,
        Self::BlockDevice,
    ];
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The range of the member in the tar, including all headers and the padding.
    pub span: Range<u64>,
    /// The path. Single slashes separate its parts, and no part is empty, `.` or `..`. The path of
    /// the root itself is empty.
    pub path: &'a [u8],
    /// The path that a hardlink leads to, or the unchanged target of a symlink.
    pub link: &'a [u8],
    /// The kind.
    pub sort: Sort,
}

impl Listing {
    /// Reads a whole tar. The memory of the listing counts towards `budget` until the listing is
    /// dropped.
    pub fn read(tar: impl Read, limits: Limits, budget: &Budget) -> Result<Self> {
        // The reader accepts a missing end mark, because the announced length shows whether the
        // layer is truncated.
        let mut tarball = Tarball::new(tar, true, limits);
        let mut listing = Self::default();
        let mut share = budget.share();
        let mut bytes = 0_u64;
        loop {
            let member = match tarball.next_member() {
                Ok(Some(member)) => member,
                Ok(None) => {
                    listing.text.shrink_to_fit();
                    listing.records.shrink_to_fit();
                    share.shrink(listing.bytes());
                    listing.share = Some(share);
                    return Ok(listing);
                }
                Err(Error::BadArchive { .. }) if !tarball.is_tar() => {
                    let reason = tarball.foreign().unwrap_or("is not a tar").to_owned();
                    return Err(Error::BadArchive { reason });
                }
                Err(err) => return Err(err),
            };
            bytes = bytes.saturating_add(member.size);
            let what = "size of the unpacked layer".to_owned();
            if bytes > limits.bytes {
                return Err(Error::OverLimit { what, limit: limits.bytes });
            }
            let span = tarball.span();
            let entry = entry_of(member, limits)?;
            let (link, sort) = match &entry.kind {
                Kind::Directory => (&b""[..], Sort::Directory),
                Kind::File { .. } => (&b""[..], Sort::File),
                Kind::Hardlink(target) => (target.as_bytes(), Sort::Hardlink),
                Kind::Symlink(target) => (&**target, Sort::Symlink),
                Kind::Fifo => (&b""[..], Sort::Fifo),
                Kind::CharDevice(_) => (&b""[..], Sort::CharDevice),
                Kind::BlockDevice(_) => (&b""[..], Sort::BlockDevice),
            };
            listing.push(span, EntryPath::as_bytes(&entry.path), link, sort);
            if !share.reach(listing.bytes()) {
                let what = "size of the names in all layers".to_owned();
                return Err(Error::OverLimit { what, limit: budget.whole as u64 });
            }
        }
    }

    /// Adds a member to the listing.
    pub fn push(&mut self, span: Range<u64>, path: &[u8], link: &[u8], sort: Sort) {
        // A longer text is far over another limit, so the reader has already refused its archive.
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let record = Record {
            start: span.start,
            end: span.end,
            text: u32::try_from(self.text.len()).unwrap_or(u32::MAX),
            path: length(path),
            link: length(link),
            sort,
        };
        self.text.extend_from_slice(path);
        self.text.extend_from_slice(link);
        self.records.push(record);
    }

    /// Appends the listing to `bytes` in the form that [`Listing::decode`] reads.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.text.len() + self.records.len() * ENCODED + 8);
        bytes.extend_from_slice(&(self.records.len() as u64).to_le_bytes());
        for record in &self.records {
            let Record { start, end, text, path, link, sort } = *record;
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&end.to_le_bytes());
            bytes.extend_from_slice(&text.to_le_bytes());
            bytes.extend_from_slice(&path.to_le_bytes());
            bytes.extend_from_slice(&link.to_le_bytes());
            bytes.push(sort as u8);
        }
        bytes.extend_from_slice(&self.text);
    }

    /// Decodes the listing of a tar of `length` bytes. Returns `None` if the listing is invalid, or
    /// if `budget` has too few bytes left.
    pub fn decode(bytes: &[u8], length: u64, budget: &Budget) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (records, text) = rest.split_at_checked(count.checked_mul(ENCODED)?)?;
        let mut share = budget.share();
        if !share.reach(text.len() + count * size_of::<Record>()) {
            return None;
        }
        let mut listing =
            Self { text: text.to_vec(), records: Vec::with_capacity(count), share: Some(share) };
        let mut before = 0;
        for bytes in records.chunks_exact(ENCODED) {
            let record = Record::decode(bytes)?;
            let names = usize::from(record.path) + usize::from(record.link);
            text.get(record.text as usize..)?.get(..names)?;
            if record.start < before || record.end <= record.start || record.end > length {
                return None;
            }
            before = record.end;
            listing.records.push(record);
        }
        let bytes = listing.bytes();
        if let Some(share) = &mut listing.share {
            share.shrink(bytes);
        }
        Some(listing)
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The member with this number, which must be below [`Listing::len`].
    pub fn member(&self, number: usize) -> Member<'_> {
        let Record { start, end, text, path, link, sort } = self.records[number];
        let (path, link) = (usize::from(path), usize::from(link));
        let text = &self.text[text as usize..][..path + link];
        Member { span: start..end, path: &text[..path], link: &text[path..], sort }
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        (0..self.len()).map(|number| self.member(number))
    }

    /// A digest of everything in the listing.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        Digest::of(&bytes)
    }

    /// The number of bytes of memory that the listing takes.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.records.len() * size_of::<Record>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(names: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, contents.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn spans_are_consecutive_and_include_long_names() {
        let long = "d/".to_owned() + &"x".repeat(180);
        let bytes = tar(&[("a", "12345"), (&long, ""), ("b", &"z".repeat(513))]);
        let listing = Listing::read(&bytes[..], Limits::STANDARD, &Budget::new(1 << 20)).unwrap();
        let spans: Vec<_> = listing.members().map(|member| member.span).collect();
        // Before the header of a file with a long name, the tar has an extra header with the name
        // as its body.
        assert_eq!(spans, [0..1024, 1024..2560, 2560..4096]);
        assert_eq!(listing.member(1).path, long.as_bytes());
    }

    #[test]
    fn last_block_may_be_incomplete() {
        let bytes = tar(&[("a", "12345"), ("b", "123")]);
        let read =
            |end: usize| Listing::read(&bytes[..end], Limits::STANDARD, &Budget::new(1 << 20));
        for end in [1536 + 3, 1536 + 4, 2047, 2048] {
            let listing = read(end).unwrap();
            assert_eq!(listing.member(1).span, 1024..2048);
        }
        for end in [1536, 1536 + 2, 1535, 515] {
            assert!(read(end).is_err(), "{end}");
        }
    }

    #[test]
    fn listing_respects_the_budget_and_needs_tar() {
        let bytes = tar(&[("a", ""), ("b", "")]);
        let read =
            |bytes: &[u8], budget| Listing::read(bytes, Limits::STANDARD, &Budget::new(budget));
        assert!(matches!(read(&bytes, 40), Err(Error::OverLimit { .. })));
        let refused = read(&[b'x'; 2000], 1 << 20).unwrap_err().to_string();
        assert!(refused.contains("not a tar"), "{refused}");
    }

    #[test]
    fn message_about_a_large_layer_names_the_limit_with_its_unit() {
        let limits = Limits { bytes: 1, ..Limits::STANDARD };
        let refused = Listing::read(&tar(&[("a", "xy")])[..], limits, &Budget::new(1 << 20));
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "size of the unpacked layer is over the limit of 1 byte");
    }
}
