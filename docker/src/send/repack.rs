//! Packs a layer again without the members that the plan leaves out. Members without a change are
//! copied byte for byte, including their headers. So all their metadata stay the same, and the
//! result depends only on the input and the plan.

use std::ops::Range;

use tar::Header;

use deploy_store::layer::tar::header::field;
use deploy_store::layer::tar::pax::split_record;

use crate::error::{Error, Result};
use crate::plan::{Planned, Relink};
use crate::read::image_layer::Tar;
use crate::read::listing::Sort;
use crate::read::spool::{Region, Spool};

const BLOCK: u64 = 512;

/// A piece of the new archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A part of a temporary file.
    Copy {
        /// The region of the layer.
        region: Region,
        /// The range of bytes, relative to the start of the region.
        range: Range<u64>,
    },
    /// New bytes.
    Bytes(Vec<u8>),
}

impl Piece {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Copy { range, .. } => range.end - range.start,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether the piece has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Passes the pieces of the layer `number` to `each` until `each` returns `false`. `layers` are all
/// layers of the image. Returns whether `each` accepted all pieces.
pub fn pieces(
    spool: &Spool,
    layers: &[&Tar],
    number: usize,
    planned: &Planned,
    each: &mut dyn FnMut(Piece) -> Result<bool>,
) -> Result<bool> {
    let Tar { listing, .. } = layers[number];
    let region = region_of(layers, number)?;
    let copied = |from: u64, to: u64| Piece::Copy { region, range: from..to };
    let mut relinked = planned.relinked.iter().peekable();
    let mut moved = planned.moved.iter().peekable();
    let mut dropped = planned.dropped.iter().peekable();
    // `from` is the start of the next range to copy, and `end` is the end of the current member.
    let (mut from, mut end) = (0, 0);
    for (at, member) in (0_u32..).zip(listing.members()) {
        end = member.span.end;
        let is_dropped = dropped.next_if_eq(&&at).is_some();
        let relink = relinked.next_if(|(changed, _)| *changed == at).map(|(_, relink)| relink);
        let name = moved.next_if(|(changed, _)| *changed == at).map(|(_, path)| {
            // In old tar headers, a slash at the end of the name marks a directory.
            let slash = if member.sort == Sort::Directory { &b"/"[..] } else { b"" };
            [path, slash].concat()
        });
        if !is_dropped && relink.is_none() && name.is_none() {
            continue;
        }
        if from < member.span.start && !each(copied(from, member.span.start))? {
            return Ok(false);
        }
        from = end;
        if is_dropped {
            continue;
        }
        let (source, span, change) = match relink {
            Some(Relink::File { layer, member: of }) => {
                let number = usize::from(*layer);
                let name = name.as_deref().unwrap_or(member.path);
                let span = layers[number].listing.member(*of as usize).span;
                (region_of(layers, number)?, span, Change { name: Some(name), link: None })
            }
            Some(Relink::To(path)) => {
                (region, member.span, Change { name: name.as_deref(), link: Some(path) })
            }
            None => (region, member.span, Change { name: name.as_deref(), link: None }),
        };
        let (headers, body) = rewritten(spool, source, span, &change)?;
        if !each(Piece::Bytes(headers))? {
            return Ok(false);
        }
        if !body.is_empty() && !each(Piece::Copy { region: source, range: body })? {
            return Ok(false);
        }
    }
    if from < end && !each(copied(from, end))? {
        return Ok(false);
    }
    // Two blocks of zeros end the archive, regardless of the zeros at the end of the layer.
    each(Piece::Bytes(vec![0; 1024]))
}

/// The numbers of the layers from whose bytes the layer `number` is packed.
pub fn needs(number: usize, planned: &Planned) -> impl Iterator<Item = usize> {
    let others = planned.relinked.iter().filter_map(|(_, relink)| match relink {
        Relink::File { layer, .. } => Some(usize::from(*layer)),
        Relink::To(_) => None,
    });
    others.chain([number])
}

fn region_of(layers: &[&Tar], number: usize) -> Result<Region> {
    layers[number].region.ok_or_else(|| Error::archive("has a layer whose bytes were not kept"))
}

/// The changes to a member's headers.
struct Change<'a> {
    name: Option<&'a [u8]>,
    link: Option<&'a [u8]>,
}

/// The changed headers of a member, and the range of its body.
fn rewritten(
    spool: &Spool,
    region: Region,
    span: Range<u64>,
    change: &Change<'_>,
) -> Result<(Vec<u8>, Range<u64>)> {
    let Headers { last: mut header, mut records, end: at } = read_headers(spool, region, &span)?;
    // A sparse file has its name in a separate record.
    let is_sparse = records.iter().any(|(key, _)| key == b"GNU.sparse.name");
    let Change { name, link } = *change;
    let sparse = name.filter(|_| is_sparse);
    for (key, value) in [("path", name), ("GNU.sparse.name", sparse), ("linkpath", link)] {
        if let Some(value) = value {
            records.retain(|(known, _)| known != key.as_bytes());
            records.push((key.into(), value.to_vec()));
        }
    }
    if at == span.end {
        // If an entry has no body, its PAX record `size` is removed, because a reader could rely on
        // it.
        records.retain(|(key, _)| key != b"size");
        header.set_size(0);
    }
    let mut out = extended(&records);
    let bytes = header.as_mut_bytes();
    for (from, value) in [(0, name), (157, link)] {
        if let Some(value) = value {
            let short = &value[..value.len().min(100)];
            bytes[from..from + 100].fill(0);
            bytes[from..from + short.len()].copy_from_slice(short);
        }
    }
    if name.is_some() && &bytes[257..263] == b"ustar\0" {
        bytes[345..500].fill(0);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    Ok((out, at..span.end))
}

/// The headers of a member in the layer.
struct Headers {
    last: Header,
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// The offset at which the headers end and the body begins.
    end: u64,
}

fn read_headers(spool: &Spool, region: Region, span: &Range<u64>) -> Result<Headers> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut at = span.start;
    let (mut long_name, mut long_link) = (None, None);
    let last = loop {
        let mut header = Header::new_old();
        spool.read(region, at, header.as_mut_bytes())?;
        at += BLOCK;
        let kind = header.entry_type().as_byte();
        if !matches!(kind, b'x' | b'X' | b'L' | b'K' | b'g') {
            break header;
        }
        let size = field(&header.as_old().size).ok().and_then(|size| u64::try_from(size).ok());
        let size = size.filter(|size| *size <= span.end.saturating_sub(at)).ok_or_else(changed)?;
        let mut body = vec![0; usize::try_from(size).map_err(|_| changed())?];
        spool.read(region, at, &mut body)?;
        at += size.next_multiple_of(BLOCK);
        match kind {
            b'L' => long_name = Some(text(body)),
            b'K' => long_link = Some(text(body)),
            b'g' => {}
            _ => read_records(&body, &mut records)?,
        }
    };
    // A long name in GNU's form becomes a PAX record.
    for (key, long) in [("path", long_name), ("linkpath", long_link)] {
        // An empty record counts as missing.
        let said =
            |(known, value): &(Vec<u8>, Vec<u8>)| known == key.as_bytes() && !value.is_empty();
        if let Some(value) = long
            && !records.iter().any(said)
        {
            records.retain(|(known, _)| known != key.as_bytes());
            records.push((key.into(), value));
        }
    }
    Ok(Headers { last, records, end: at })
}

/// Makes a PAX extended header with these records.
fn extended(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        // The length of a record includes its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(length.to_string().as_bytes());
        for part in [&b" "[..], key, b"=", value, b"\n"] {
            body.extend_from_slice(part);
        }
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_path("PaxHeaders.0/relinked").expect("the path is short");
    header.set_mode(0o644);
    header.set_size(body.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    out.extend_from_slice(&body);
    out
}

fn read_records(mut body: &[u8], records: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
    while !body.is_empty() {
        let (record, rest) = split_record(body).map_err(|_| changed())?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(changed)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        body = rest;
    }
    Ok(())
}

fn text(mut body: Vec<u8>) -> Vec<u8> {
    body.truncate(body.iter().position(|byte| *byte == 0).unwrap_or(body.len()));
    body
}

/// The error for a member that is no longer valid. The member was valid at the first reading, so
/// the temporary file has changed since then.
fn changed() -> Error {
    Error::archive("was changed in the temporary file while it was being read")
}

#[cfg(test)]
mod tests;
