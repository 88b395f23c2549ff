//! Reads the maps of sparse files: GNU's old header form, and the PAX forms 0.0, 0.1 and 1.0 (GNU
//! tar manual, "Storing Sparse Files").

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::header::field;
use super::pax::{self, Sparse};
use crate::layer::entry::bad_entry;

use crate::error::{Error, Result};

/// The maximum number of extents in one file.
const MAX_EXTENTS: usize = 1 << 18;
const BLOCK: usize = 512;

/// A contiguous range of data in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// The length in bytes.
    pub length: u64,
}

/// The reason why a map is refused.
#[derive(Debug)]
pub enum Why {
    /// The map is invalid.
    Map(String),
    /// The archive cannot be read.
    Archive(Error),
}

impl From<String> for Why {
    fn from(why: String) -> Self {
        Self::Map(why)
    }
}

impl From<Error> for Why {
    fn from(err: Error) -> Self {
        Self::Archive(err)
    }
}

/// The error for the archive entry `name`.
pub fn error(name: &[u8], why: Why) -> Error {
    match why {
        Why::Map(why) => bad_entry(name, why),
        Why::Archive(err) => err,
    }
}

type Map = Result<(u64, Vec<Extent>), Why>;

/// Reads a file's length and extents from GNU's old headers. `block` reads the next block, which
/// holds a further header.
pub fn old_gnu(header: &Header, mut block: impl FnMut() -> Result<[u8; BLOCK]>) -> Map {
    let bad = || "its sparse map is invalid".to_owned();
    let gnu = header.as_gnu().ok_or_else(bad)?;
    let length = field(&gnu.realsize).ok().and_then(|size| u64::try_from(size).ok());
    let mut extents = Vec::new();
    let mut add = |blocks: &[GnuSparseHeader]| -> Result<(), Why> {
        for part in blocks.iter().filter(|part| part.offset[0] != 0 || part.numbytes[0] != 0) {
            let number = |bytes: &[u8]| field(bytes).ok().and_then(|n| u64::try_from(n).ok());
            let offset = number(&part.offset).ok_or_else(bad)?;
            let length = number(&part.numbytes).ok_or_else(bad)?;
            extents.push(Extent { offset, length });
        }
        if extents.len() > MAX_EXTENTS { Err(too_many().into()) } else { Ok(()) }
    };
    add(&gnu.sparse)?;
    let mut more = gnu.is_extended();
    while more {
        let mut extension = GnuExtSparseHeader::new();
        *extension.as_mut_bytes() = block()?;
        add(extension.sparse())?;
        more = extension.is_extended();
    }
    checked(length.ok_or_else(bad)?, extents)
}

/// Reads the length and extents of a PAX 1.0 file. The map of such a file is in the first blocks of
/// the body. `left` is the length of the body, and the function subtracts these blocks from `left`.
pub fn pax_1(
    sparse: &Sparse,
    left: &mut u64,
    mut block: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Map {
    let cut = || "its sparse map is longer than its body".to_owned();
    let mut text: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut next_number = || -> Result<u64, Why> {
        loop {
            if let Some(end) = text[at..].iter().position(|&byte| byte == b'\n') {
                let number = pax::number("sparse map", &text[at..at + end])?;
                at += end + 1;
                return Ok(number);
            }
            if text.len() - at > BLOCK {
                return Err("its sparse map is invalid".to_owned().into());
            }
            *left = left.checked_sub(BLOCK as u64).ok_or_else(cut)?;
            text.drain(..at);
            at = 0;
            text.extend_from_slice(&block()?);
        }
    };
    let count = usize::try_from(next_number()?).unwrap_or(usize::MAX);
    if count > MAX_EXTENTS {
        return Err(too_many().into());
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push(Extent { offset: next_number()?, length: next_number()? });
    }
    let length = sparse.realsize.ok_or_else(|| "its sparse size is missing".to_owned())?;
    checked(length, extents)
}

/// Reads a file's length and extents from the records of PAX 0.0 or 0.1. Without such records, the
/// file is not sparse, and its body is one extent.
pub fn pax_0(sparse: &Sparse, body: u64) -> Map {
    let numbers: Vec<u64> = match &sparse.map {
        Some(map) => map
            .split(|&byte| byte == b',')
            .map(|part| pax::number("sparse map", part))
            .collect::<Result<_, _>>()?,
        None if !sparse.pairs.is_empty() => sparse.pairs.clone(),
        None => return Ok((body, vec![Extent { offset: 0, length: body }])),
    };
    if !numbers.len().is_multiple_of(2) {
        return Err("its sparse map is invalid".to_owned().into());
    }
    let extents = numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] });
    let length = sparse.realsize.ok_or_else(|| "its sparse size is missing".to_owned())?;
    checked(length, extents.collect())
}

/// Checks that the extents are in order, do not overlap, and end within the file.
fn checked(length: u64, extents: Vec<Extent>) -> Map {
    let mut end = 0;
    for extent in &extents {
        let next = extent.offset.checked_add(extent.length);
        match next {
            Some(next) if extent.offset >= end && next <= length => end = next,
            _ => {
                let why = "its sparse map has parts that overlap or lie outside the file";
                return Err(why.to_owned().into());
            }
        }
    }
    Ok((length, extents))
}

fn too_many() -> String {
    format!("its sparse map has more than {MAX_EXTENTS} parts")
}
