//! Extracts layers: decodes the archive of a layer once, into objects and an index.

mod merge_check;
pub(super) mod pending;

use std::fs::File;
use std::io::{self, Read};

use super::{Extracted, Store};
use crate::digest::{Digest, Hasher};
use crate::disk::{TempFile, name_of};
use crate::error::{Error, Result};
use crate::layer::archive::{self, Body};
use crate::layer::entry::{Content, Entry, Kind};
use crate::layer::index::entries::Entries;
use crate::layer::index::{Index, IndexWriter};
use crate::layer::objects::batch::Batch;
use crate::layer::objects::writers::with_writers;
use crate::layer::pipe::Filled;
use crate::layer::pipeline;
use crate::limits::Limits;
use crate::owners::Owners;
use merge_check::MergeCheck;
use pending::Pending;

impl Store {
    /// Extracts the layer from its cached blob. Returns `None` if the layer is extracted already.
    /// If the blob is missing or damaged, the method fails with [`Error::NoSuchBlob`]. A damaged
    /// blob is also removed. After this error, download the blob and call the method again.
    pub fn extract(&self, digest: Digest) -> Result<Option<Extracted>> {
        if self.has_layer(digest)? {
            return Ok(None);
        }
        self.extract_anew(digest).map(Some)
    }

    /// Opens the layer's index. If the index is missing, damaged or of an earlier format, the layer
    /// is extracted again.
    pub(super) fn index(&self, digest: Digest) -> Result<Entries<File>> {
        match self.open_index(digest) {
            // An index of an earlier format has no entry for the root itself.
            Ok(entries) if !entries.is_current() => {
                tracing::info!(
                    "layer {digest} was extracted by an earlier version: extracting again"
                );
            }
            Err(Error::Corrupt { path, reason }) => {
                tracing::warn!("{} is damaged ({reason}): extracting again", path.display());
            }
            Err(err) if err.is_not_found() => {}
            other => return other,
        }
        self.extract_anew(digest)?;
        self.open_index(digest)
    }

    fn open_index(&self, digest: Digest) -> Result<Entries<File>> {
        let name = name_of(digest);
        let file = match self.pending_index(digest)? {
            Some(file) => file,
            None => self.layers.open_file(&name)?,
        };
        Entries::open(file, &self.layers.path_of(&name))
    }

    pub(super) fn read_index(&self, digest: Digest) -> Result<Index> {
        let entries = self.open_index(digest)?.collect::<Result<_>>()?;
        Ok(Index { entries })
    }

    /// Extracts the layer, even if the layer is extracted already. Sound objects are not replaced.
    pub(super) fn extract_anew(&self, digest: Digest) -> Result<Extracted> {
        let (layer, merge_check) = self.decode(digest)?;
        self.publish_layer(layer, merge_check)
    }

    /// Decodes the layer's blob. The caller must run the returned [`MergeCheck`].
    pub(super) fn decode(&self, digest: Digest) -> Result<(Pending, MergeCheck)> {
        let mut blob = self.blob(digest)?;
        let fail = |err| Error::io("read", self.path.join(format!("cache/{digest}")), err);
        let mut hasher = Hasher::default();
        let batch = Batch::begin(&self.objects)?;
        let temp = TempFile::create(&self.layers, "index")?;
        let mut index = IndexWriter::new(temp.file());
        let mut merge_check = MergeCheck::default();
        let (filled, read) = read_objects(
            &mut blob,
            self.limits,
            &batch,
            &self.placement.owners,
            |bytes| {
                hasher.update(bytes);
                self.placement.meter.add(bytes.len() as u64);
            },
            |entry| {
                merge_check.add(&entry);
                index.add(&entry).map_err(|err| temp.error("write", err))
            },
        );
        if filled.map_err(fail)? == Filled::Unread {
            hash_rest(&mut blob, &mut hasher).map_err(fail)?;
        }
        if hasher.finish() != digest {
            tracing::warn!("cached blob {digest} was damaged and is removed");
            self.forget_blob(digest)?;
            return Err(Error::NoSuchBlob(digest));
        }
        let mut extracted = read?;
        index.finish().map_err(|err| temp.error("write", err))?;
        extracted.new_objects = batch.written();
        Ok((Pending { digest, batch, index: temp, extracted }, merge_check))
    }

    /// Opens the layer's blob, either in the cache or among the downloads.
    fn blob(&self, digest: Digest) -> Result<File> {
        match self.blobs.reader(digest) {
            Err(Error::NoSuchBlob(_)) => self.blobs.partial_reader(digest),
            other => other,
        }
    }

    pub(super) fn forget_blob(&self, digest: Digest) -> Result<()> {
        self.blobs.remove_partial(digest)?;
        if self.blobs.contains(digest)? { self.blobs.remove(digest) } else { Ok(()) }
    }
}

/// Hashes the unread rest of the blob.
fn hash_rest(blob: &mut File, hasher: &mut Hasher) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match blob.read(&mut buffer)? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Reads a whole archive (gzip, zstd or plain tar) with the same checks as an agent that extracts
/// the archive. If an agent would refuse the archive, the function fails, and the error states the
/// reason.
pub fn check_archive(mut archive: impl Read, limits: Limits) -> Result<Extracted> {
    let mut merge_check = MergeCheck::default();
    let each = |entry| {
        merge_check.add(&entry);
        Ok(())
    };
    let (_, read) = pipeline::run(
        &mut archive,
        limits,
        |_| {},
        |plain, framed| {
            // The contents of files are not hashed here, because nothing uses the hashes.
            read_entries(plain, framed, limits, |_, _, _| Ok(Content::empty()), each)
        },
    );
    let extracted = read?;
    merge_check.check()?;
    Ok(extracted)
}

/// Reads an archive, writes the contents of its files to `batch`, and passes its entries to `each`.
/// The first result is the result of reading `source` (see [`pipeline::run`]).
pub(super) fn read_objects<R: Read>(
    source: &mut R,
    limits: Limits,
    batch: &Batch,
    owners: &Owners,
    seen: impl FnMut(&[u8]),
    each: impl FnMut(Entry) -> Result<()> + Send,
) -> (io::Result<Filled>, Result<Extracted>) {
    pipeline::run(source, limits, seen, |plain, framed| {
        with_writers(batch, |writers| {
            let take = |size, entry: &Entry, body: Body<'_, _>| {
                // The name of an object may depend on the metadata of its inode.
                let mut meta = entry.meta.clone();
                owners.give(&entry.path, &mut meta, true);
                writers.write(size, &meta, body)
            };
            read_entries(plain, framed, limits, take, each)
        })
    })
}

/// Reads the entries of an archive. `take` gets the size, the entry and the contents of each file.
pub(super) fn read_entries<R: Read>(
    plain: R,
    framed: bool,
    limits: Limits,
    mut take: impl FnMut(u64, &Entry, Body<'_, R>) -> Result<Content>,
    mut each: impl FnMut(Entry) -> Result<()>,
) -> Result<Extracted> {
    let mut extracted = Extracted::default();
    archive::read(plain, framed, limits, |mut entry: Entry, body| {
        // The root itself always exists, so its entry does not count.
        extracted.entries += u64::from(!entry.path.is_root());
        if let (&Kind::File { size, .. }, Some(body)) = (&entry.kind, body) {
            extracted.files += 1;
            extracted.bytes += size;
            let content = take(size, &entry, body)?;
            entry.kind = Kind::File { size, content };
        }
        each(entry)
    })?;
    Ok(extracted)
}
