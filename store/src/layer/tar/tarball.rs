//! Reads the tar container (POSIX.1-2017 ustar and pax, GNU tar, v7), which is a stream of headers
//! and bodies.
//!
//! The `tar` crate's `Header` gives the layout of the header block. The crate's entry reader is not
//! used, for three reasons. The crate reads long names and PAX headers into memory without a limit.
//! The crate splits PAX records at newlines, which binary attributes may contain. And the crate
//! does not support PAX sparse files. In several cases in which readers of tar disagree, this
//! reader refuses the archive.

mod blocks;
mod other;

use std::io::Read;

use tar::Header;

use super::acl::Names;
use super::foreign;
use super::header::{Flag, check_sum, device_of, field, flag_of, meta_of, name_of};
use super::pax::Pax;
use super::sparse::{self, Extent};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::bad_entry;
use crate::limits::Limits;
use blocks::{BLOCK, padding_of};

/// One member of the archive. The names in this value are raw bytes, and are not checked yet.
#[derive(Debug)]
pub struct Member {
    /// The name of the member.
    pub name: Vec<u8>,
    /// The kind of the member.
    pub flag: Flag,
    /// The target of a link.
    pub link: Vec<u8>,
    /// The length of a file's contents, including holes.
    pub size: u64,
    /// The metadata of the inode.
    pub meta: Meta,
    /// The major and minor numbers of a device.
    pub device: (u32, u32),
}

/// A piece of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The buffer holds this many bytes of data.
    Data(usize),
    /// A hole: this many zeros, which the archive does not store.
    Hole(u64),
    /// The end of the contents.
    End,
}

/// Reads the members of an archive one after another.
#[derive(Debug)]
pub struct Tarball<R> {
    inner: R,
    /// The bytes that were read ahead and are not used yet.
    ahead: Vec<u8>,
    framed: bool,
    limits: Limits,
    global: Pax,
    /// The remaining extents of the current body.
    extents: std::vec::IntoIter<Extent>,
    current: Extent,
    /// The offset of the next piece in the file, and the length of the file.
    given: u64,
    length: u64,
    /// The number of padding zeros between the end of the body and the next block.
    padding: u64,
    /// Whether a header was read. A header shows that the file is tar.
    begun: bool,
    /// The message about another known format, if the first bytes show such a format.
    foreign: Option<&'static str>,
    /// The numbers of users and groups by name, for access lists.
    names: Names,
    /// The number of bytes read so far, and the offsets of the start and the end of the last
    /// member.
    position: u64,
    start: u64,
    end: u64,
}

/// The extended headers before a member.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: u64,
}

impl Extended {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

impl<R: Read> Tarball<R> {
    /// Reads from `inner`. `framed` states whether the decompression detects every truncation. A
    /// framed archive may lack the end mark of tar and the padding of the last body.
    pub fn new(inner: R, framed: bool, limits: Limits) -> Self {
        Self {
            inner,
            ahead: Vec::new(),
            framed,
            limits,
            global: Pax::default(),
            extents: Vec::new().into_iter(),
            current: Extent::default(),
            given: 0,
            length: 0,
            padding: 0,
            begun: false,
            foreign: None,
            names: Names::default(),
            position: 0,
            start: 0,
            end: 0,
        }
    }

    /// Whether a header was read. Without a header, the file is not tar.
    pub fn is_tar(&self) -> bool {
        self.begun
    }

    /// The message for a file that has another known format instead of tar.
    pub fn foreign(&self) -> Option<&'static str> {
        self.foreign
    }

    /// The position of the member that was read last, as a range of bytes in the archive. The range
    /// begins at the member's first header, even if this header is an extended header. The range
    /// ends after the last block of the body.
    pub fn span(&self) -> std::ops::Range<u64> {
        self.start..self.end
    }

    /// Reads the next member. After the last member, the method reads the rest of the archive,
    /// checks that the rest has only zeros, and returns `None`.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.finish_body()?;
        let mut extended = Extended::default();
        loop {
            if extended.is_empty() {
                self.start = self.position;
            }
            let Some(header) = self.next_header()? else {
                if extended.bytes > 0 {
                    return Err(Error::bad_archive("ends after an extended header"));
                }
                return Ok(None);
            };
            let size = field(&header.as_old().size)
                .and_then(|size| u64::try_from(size).map_err(|_| "is negative".to_owned()))
                .map_err(|why| bad_entry(&name_of(&header), format!("its size {why}")))?;
            match header.entry_type().as_byte() {
                b'x' | b'X' => {
                    let records = self.extended_body(size, &mut extended.bytes)?;
                    let mut pax = self.global.clone();
                    pax.read(&records).map_err(|why| bad_entry(&name_of(&header), why))?;
                    if extended.pax.replace(pax).is_some() {
                        return Err(Error::bad_archive("has two PAX headers for one entry"));
                    }
                }
                // Tar readers disagree on which member such a header belongs to.
                b'g' if !extended.is_empty() => {
                    return Err(Error::bad_archive(
                        "has a global header within an entry's headers",
                    ));
                }
                b'g' => self.global_header(&header, size)?,
                b'L' => self.long_name(size, &mut extended, |extended| &mut extended.name)?,
                b'K' => self.long_name(size, &mut extended, |extended| &mut extended.link)?,
                // Tar readers disagree on whether such a header belongs to the label or to the next
                // member.
                b'V' if extended.bytes > 0 => {
                    return Err(Error::bad_archive(
                        "has an extended header before a volume's label",
                    ));
                }
                // A volume's label has no effect on the tree.
                b'V' => self.skip_body(size)?,
                _ => return self.member(&header, size, extended).map(Some),
            }
        }
    }

    fn global_header(&mut self, header: &Header, size: u64) -> Result<()> {
        let records = self.extended_body(size, &mut 0)?;
        self.global.read(&records).map_err(|why| bad_entry(&name_of(header), why))?;
        if self.global.size.is_some() || self.global.path.is_some() {
            return Err(Error::bad_archive("has a global header with a path or size"));
        }
        // An archive may have any number of global headers, so the memory for their records is
        // limited.
        if self.global.bytes() as u64 > self.limits.header_bytes {
            let what = "size of the global headers of one archive".to_owned();
            return Err(Error::OverLimit { what, limit: self.limits.header_bytes });
        }
        Ok(())
    }

    /// Reads the next piece of the current file's contents.
    pub fn next_piece(&mut self, buffer: &mut [u8]) -> Result<Piece> {
        while self.current.length == 0 {
            match self.extents.next() {
                Some(extent) => self.current = extent,
                None if self.given < self.length => {
                    let hole = self.length - self.given;
                    self.given = self.length;
                    return Ok(Piece::Hole(hole));
                }
                None => return Ok(Piece::End),
            }
        }
        if self.given < self.current.offset {
            let hole = self.current.offset - self.given;
            self.given = self.current.offset;
            return Ok(Piece::Hole(hole));
        }
        let most = usize::try_from(self.current.length).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.read_some(&mut buffer[..most])?;
        let n64 = n as u64;
        self.given += n64;
        self.current =
            Extent { offset: self.current.offset + n64, length: self.current.length - n64 };
        Ok(Piece::Data(n))
    }

    fn finish_body(&mut self) -> Result<()> {
        let data: u64 = self.current.length + self.extents.by_ref().map(|e| e.length).sum::<u64>();
        self.current = Extent::default();
        self.skip(data)?;
        let padding = std::mem::take(&mut self.padding);
        self.skip_padding(padding)
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member> {
        let is_pax = extended.pax.is_some();
        let pax = extended.pax.unwrap_or_else(|| self.global.clone());
        let gnu_name = extended.name.unwrap_or_else(|| name_of(header));
        let name = pax.path.clone().unwrap_or(gnu_name);
        let refuse = |why: String| bad_entry(&name, why);
        let flag = flag_of(header, &name).map_err(refuse)?;
        let old_link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let link = pax.linkpath.clone().or(extended.link).unwrap_or_else(old_link);
        let meta = meta_of(header, &pax, flag, &mut self.names).map_err(refuse)?;
        let device = device_of(header, flag).map_err(refuse)?;
        let mut member = Member { name: name.clone(), flag, link, size: 0, meta, device };
        let body = pax.size.unwrap_or(size);
        if flag != Flag::File {
            let body = match header.entry_type().as_byte() {
                b'D' => body,
                _ => self.body_of_other(flag, body, is_pax)?.map_err(refuse)?,
            };
            self.skip_body(body)?;
            self.end = self.position;
            return Ok(member);
        }
        let mut left = body;
        let (length, extents) = if header.entry_type().is_gnu_sparse() {
            sparse::old_gnu(header, || self.block())
        } else if pax.sparse.major == Some(1) {
            sparse::pax_1(&pax.sparse, &mut left, || self.block())
        } else {
            sparse::pax_0(&pax.sparse, body)
        }
        .map_err(|why| sparse::error(&name, why))?;
        if extents.iter().map(|extent| extent.length).sum::<u64>() != left {
            return Err(refuse("its sparse map does not fit its body".to_owned()));
        }
        if let Some(sparse_name) = pax.sparse.name {
            member.name = sparse_name;
        }
        member.size = length;
        (self.length, self.given) = (length, 0);
        self.extents = extents.into_iter();
        self.padding = padding_of(left);
        self.end = self.position.saturating_add(left).saturating_add(self.padding);
        Ok(member)
    }

    /// Reads the next header block. Returns `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let n = self.read_full(header.as_mut_bytes())?;
        if !self.begun {
            self.foreign = foreign::what_is(&header.as_bytes()[..n]);
        }
        if n == 0 {
            if self.framed {
                return Ok(None);
            }
            return Err(Error::bad_archive("ends without its end mark: it was cut off"));
        }
        if n < BLOCK {
            return Err(Error::bad_archive("is cut off in a header"));
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            self.read_to_end()?;
            return Ok(None);
        }
        check_sum(&header)?;
        self.begun = true;
        Ok(Some(header))
    }

    fn long_name(
        &mut self,
        size: u64,
        extended: &mut Extended,
        place: fn(&mut Extended) -> &mut Option<Vec<u8>>,
    ) -> Result<()> {
        let mut name = self.extended_body(size, &mut extended.bytes)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        match place(extended).replace(name) {
            None => Ok(()),
            Some(_) => Err(Error::bad_archive("has two long names for one entry")),
        }
    }

    /// Reads the body of an extended header. All headers of one entry count towards one limit.
    fn extended_body(&mut self, size: u64, total: &mut u64) -> Result<Vec<u8>> {
        // An empty header also counts, so that a long series of empty headers is refused.
        *total = total.saturating_add(size.max(BLOCK as u64));
        if *total > self.limits.header_bytes {
            return Err(Error::OverLimit {
                what: "size of the headers of one archive entry".to_owned(),
                limit: self.limits.header_bytes,
            });
        }
        let mut body = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        if self.read_full(&mut body)? < body.len() {
            return Err(Error::bad_archive("is cut off in a header"));
        }
        self.skip(padding_of(size))?;
        Ok(body)
    }
}
