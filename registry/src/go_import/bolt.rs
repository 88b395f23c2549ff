//! Reads a bolt file (boltdb, bbolt). The Go tool keeps its catalogue in such a file.
//! docs/FORMAT.md describes the format. The code is pure: it turns bytes into keys and values.
//!
//! The reader refuses a file that uses a page twice, or in which elements of a page share bytes. So
//! even for a hostile file, the length of the file limits the work.

use std::collections::BTreeSet;
use std::ops::Range;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The page sizes that the reader tries, as exponents of two. The range has the page sizes of all
/// machines that Go supports, and smaller sizes, which a program may choose.
const PAGE_SIZES: Range<u32> = 9..17;
const PAGE_HEADER: usize = 16;
const META: usize = 64;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const IS_BUCKET: u32 = 1;
/// Maximum number of levels of branch pages in one bucket. Even 2^64 keys need no more levels.
const MAX_DEPTH: usize = 64;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is of another kind.
    #[error("is not a bolt file")]
    Foreign,
    /// The file was written on a big-endian machine. The reader expects little-endian numbers.
    #[error("was written on a big-endian machine; the import reads only little-endian files")]
    BigEndian,
    /// The file's format version differs from the version of the Go tool's files.
    #[error("has version {0} of the bolt format; the import reads only version {VERSION}")]
    Version(u32),
    /// The file is damaged.
    #[error("is damaged: {0}")]
    Damaged(String),
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// An open bolt file, with the state of its last complete transaction.
#[derive(Debug)]
pub struct Bolt<'a> {
    bytes: &'a [u8],
    meta: Meta,
    seen: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: usize,
    root: u64,
    /// The number of the first page that was never used.
    end: u64,
    transaction: u64,
}

/// A bucket that has not been read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bucket<'a> {
    /// The number of the bucket's first page.
    Page(u64),
    /// The bucket's only page, which is part of a value in the parent bucket.
    Inline(&'a [u8]),
}

/// The value or bucket of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'a> {
    /// The bytes of a value.
    Value(&'a [u8]),
    /// A bucket with more keys.
    Bucket(Bucket<'a>),
}

/// A key, and the value or bucket that the key refers to.
pub type Entry<'a> = (&'a [u8], Item<'a>);

impl<'a> Bolt<'a> {
    /// Opens a file. If both meta pages are undamaged, the reader uses the newer meta page.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let first = meta(bytes, 0);
        let second = match first {
            Ok(meta) => Some(self::meta(bytes, meta.page_size)),
            // The first meta page is damaged, so the page size is unknown. The second meta page
            // begins one page after the start of the file.
            Err(_) => PAGE_SIZES
                .map(|bits| (1 << bits, self::meta(bytes, 1 << bits)))
                .find(|(size, meta)| meta.as_ref().is_ok_and(|meta| meta.page_size == *size))
                .map(|(_, meta)| meta),
        };
        let newest = match (first, second) {
            (Ok(one), Some(Ok(other))) if other.transaction > one.transaction => other,
            (Ok(one), _) => one,
            (Err(_), Some(Ok(other))) => other,
            (Err(err), _) => return Err(err),
        };
        Ok(Self { bytes, meta: newest, seen: BTreeSet::new() })
    }

    /// The number of the last transaction.
    pub fn transaction(&self) -> u64 {
        self.meta.transaction
    }

    /// The bucket that contains all other buckets.
    pub fn root(&self) -> Bucket<'a> {
        Bucket::Page(self.meta.root)
    }

    /// All entries of a bucket, sorted by key. The caller can read a bucket only once.
    pub fn entries(&mut self, bucket: &Bucket<'a>) -> Result<Vec<Entry<'a>>> {
        let mut entries = Vec::new();
        match bucket {
            Bucket::Inline(page) => leaf(page, 0, &mut entries)?,
            Bucket::Page(number) => self.pages(*number, 0, &mut entries)?,
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            let key = pair[1].0.escape_ascii();
            return damaged(format!("key \"{key}\" is out of order"));
        }
        Ok(entries)
    }

    /// Reads the page `number` and the pages below it.
    fn pages(&mut self, number: u64, depth: usize, into: &mut Vec<Entry<'a>>) -> Result<()> {
        if depth > MAX_DEPTH {
            return damaged(format!("page {number} is more than {MAX_DEPTH} levels down"));
        }
        let page = self.page(number)?;
        match u16_at(page, 8) {
            LEAF => leaf(page, number, into),
            BRANCH => {
                let count = usize::from(u16_at(page, 10));
                if page.len() < PAGE_HEADER + count * ELEMENT || count == 0 {
                    return damaged(format!("page {number} has a wrong count of pages, {count}"));
                }
                for at in (0..count).map(|n| PAGE_HEADER + n * ELEMENT) {
                    self.pages(u64_at(page, at + 8), depth + 1, into)?;
                }
                Ok(())
            }
            kind => damaged(format!("page {number} has kind {kind}, but must hold keys")),
        }
    }

    /// The page `number`, with its overflow pages.
    fn page(&mut self, number: u64) -> Result<&'a [u8]> {
        let Meta { page_size, end, .. } = self.meta;
        if !(2..end).contains(&number) {
            return damaged(format!("there is no data page {number}; the file has {end} pages"));
        }
        let cut = || Error::Damaged(format!("the file ends before page {number} does"));
        let from = usize::try_from(number).ok().and_then(|number| number.checked_mul(page_size));
        let rest = from.and_then(|from| self.bytes.get(from..)).ok_or_else(cut)?;
        let header = rest.get(..PAGE_HEADER).ok_or_else(cut)?;
        let own = u64_at(header, 0);
        if own != number {
            return damaged(format!("page {number} has the page number {own}"));
        }
        let pages = u64::from(u32_at(header, 12)) + 1;
        let length = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(page_size));
        let page = length.and_then(|length| rest.get(..length)).ok_or_else(cut)?;
        if let Some(twice) = (number..number + pages).find(|page| !self.seen.insert(*page)) {
            return damaged(format!("page {twice} is used twice"));
        }
        Ok(page)
    }
}

/// Reads the entries of a leaf page. The bytes of the elements must come in the order of the
/// elements, and must not overlap.
fn leaf<'a>(page: &'a [u8], number: u64, into: &mut Vec<Entry<'a>>) -> Result<()> {
    let bad = |n: usize| {
        Error::Damaged(format!("key {n} of page {number} has a wrong position or length"))
    };
    if page.len() < PAGE_HEADER || u16_at(page, 8) != LEAF {
        return damaged(format!("page {number} holds no keys"));
    }
    let count = usize::from(u16_at(page, 10));
    let mut end = PAGE_HEADER + count * ELEMENT;
    for n in 0..count {
        let at = PAGE_HEADER + n * ELEMENT;
        let element = page.get(at..at + ELEMENT).ok_or_else(|| bad(n))?;
        let [key_at, key_len, value_len] = [4, 8, 12].map(|at| u32_at(element, at) as usize);
        let from = at.saturating_add(key_at);
        let middle = from.saturating_add(key_len);
        if from < end {
            return Err(bad(n));
        }
        end = middle.saturating_add(value_len);
        let key = page.get(from..middle).ok_or_else(|| bad(n))?;
        let value = page.get(middle..end).ok_or_else(|| bad(n))?;
        let item = match u32_at(element, 0) & IS_BUCKET {
            0 => Item::Value(value),
            _ => Item::Bucket(bucket(value).ok_or_else(|| bad(n))?),
        };
        into.push((key, item));
    }
    Ok(())
}

/// The bucket that a value describes. The value has either the number of the bucket's first page,
/// or 0 and the page itself.
fn bucket(value: &[u8]) -> Option<Bucket<'_>> {
    let header = value.get(..BUCKET_HEADER)?;
    Some(match u64_at(header, 0) {
        0 => Bucket::Inline(&value[BUCKET_HEADER..]),
        page => Bucket::Page(page),
    })
}

fn meta(bytes: &[u8], at: usize) -> Result<Meta> {
    let from = at + PAGE_HEADER;
    let meta = bytes.get(from..from + META).ok_or(Error::Foreign)?;
    match u32_at(meta, 0) {
        MAGIC => {}
        magic if magic == MAGIC.swap_bytes() => return Err(Error::BigEndian),
        _ => return Err(Error::Foreign),
    }
    if fnv(&meta[..META - 8]) != u64_at(meta, META - 8) {
        return damaged("no meta page is valid, and the first has a wrong checksum".to_owned());
    }
    let version = u32_at(meta, 4);
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let page_size = u32_at(meta, 8);
    if !PAGE_SIZES.contains(&page_size.trailing_zeros()) || !page_size.is_power_of_two() {
        return damaged(format!("the meta page gives a page size of {page_size} bytes"));
    }
    Ok(Meta {
        page_size: page_size as usize,
        root: u64_at(meta, 16),
        end: u64_at(meta, 40),
        transaction: u64_at(meta, 48),
    })
}

/// The hash function FNV-1a with 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn damaged<T>(why: String) -> Result<T> {
    Err(Error::Damaged(why))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(crate) mod tests;
