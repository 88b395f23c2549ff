//! Makes the blobs of missing layers from the temporary files, and sends these blobs.

pub mod compress;
pub mod image_json;
pub mod repack;

use std::collections::BTreeMap;

use deploy_store::{ComponentName, Digest, Hasher, Unit};
use deploy_wire::image::Origin;

use crate::error::Result;
use crate::job::{Event, Options};
use crate::plan::Planned;
use crate::read::image_layer::Tar;
use crate::read::spool::Spool;
use crate::to::Destination;
use compress::{Chunk, chunk_bytes, compress};
use repack::{Piece, pieces};

/// The digest and the length in bytes of each blob, by the origin of the blob.
pub type Hashes = BTreeMap<Origin, (Digest, u64)>;

/// A layer of the image that keeps at least one member. If the destination does not have its blob,
/// the blob is sent.
#[derive(Debug)]
pub struct Part {
    /// The component of the layer.
    pub component: ComponentName,
    /// The origin of the part's blob.
    pub origin: Origin,
    /// The number of the layer in the image.
    pub number: usize,
}

/// The `parts` that have no blob in `hashes`. If several parts have the same blob, only the first
/// part is returned.
pub fn unknown<'a>(parts: &'a [Part], hashes: &Hashes) -> Vec<&'a Part> {
    let mut unknown: Vec<&Part> = Vec::new();
    for part in parts {
        let twice = unknown.iter().any(|other| other.origin == part.origin);
        if !twice && !hashes.contains_key(&part.origin) {
            unknown.push(part);
        }
    }
    unknown
}

/// The data from which blobs are made and sent.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The temporary files with the layers' bytes.
    pub spool: &'a Spool,
    /// The layers of the image, lowest first.
    pub tars: &'a [&'a Tar],
    /// The plans of the layers.
    pub planned: &'a [Planned],
    /// The request.
    pub options: &'a Options,
}

impl Stage<'_> {
    /// Makes and sends the blobs of `unknown`, and adds them to `hashes`. Returns the number of
    /// bytes that were sent.
    pub fn send(
        &self,
        unknown: &[&Part],
        hashes: &mut Hashes,
        destination: &mut dyn Destination,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<u64> {
        let Options { compression, threads, .. } = *self.options;
        let whole = unknown.iter().map(|part| self.tars[part.number].length).sum();
        self.options.meter.begin("packed and sent", Unit::Bytes, whole);
        let mut sent = 0;
        let mut current: Option<(Hasher, u64)> = None;
        let produce = |next: &mut dyn FnMut(Chunk) -> bool| self.produce(unknown, next);
        let consume = |Chunk { blob, bytes, last }: Chunk| {
            let Part { component, origin, .. } = unknown[blob];
            if current.is_none() {
                tell(Event::Sending(blob + 1, unknown.len(), component));
                destination.begin(component)?;
            }
            let (sha256, length) = current.get_or_insert_default();
            sha256.update(&bytes);
            *length += bytes.len() as u64;
            destination.write(bytes)?;
            if last && let Some((sha256, length)) = current.take() {
                let digest = sha256.finish();
                destination.finish(digest)?;
                hashes.insert(*origin, (digest, length));
                sent += length;
            }
            Ok(())
        };
        let done = compress(compression, threads, produce, consume);
        self.options.meter.end();
        done?;
        Ok(sent)
    }

    /// Passes the data to send to `next` in chunks, until `next` returns `false`.
    fn produce(&self, unknown: &[&Part], next: &mut dyn FnMut(Chunk) -> bool) -> Result<()> {
        let most = chunk_bytes(self.options.compression);
        for (blob, part) in unknown.iter().enumerate() {
            let planned = &self.planned[part.number];
            let mut chunk = Vec::with_capacity(most);
            let mut each = |piece: Piece| {
                let mut taken = 0;
                while taken < piece.len() {
                    // A full chunk is passed on only after more data has arrived, because only then
                    // is it certain that the chunk is not the last.
                    if chunk.len() == most {
                        let bytes = std::mem::replace(&mut chunk, Vec::with_capacity(most));
                        if !next(Chunk { blob, bytes, last: false }) {
                            return Ok(false);
                        }
                    }
                    let n = ((most - chunk.len()) as u64).min(piece.len() - taken);
                    self.append(&piece, taken, n, &mut chunk)?;
                    taken += n;
                    self.options.meter.add(n);
                }
                Ok(true)
            };
            let wanted = pieces(self.spool, self.tars, part.number, planned, &mut each)?;
            if !wanted || !next(Chunk { blob, bytes: chunk, last: true }) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn append(&self, piece: &Piece, from: u64, n: u64, chunk: &mut Vec<u8>) -> Result<()> {
        let (start, n) = (chunk.len(), usize::try_from(n).expect("no more than a chunk"));
        match piece {
            Piece::Copy { region, range } => {
                chunk.resize(start + n, 0);
                self.spool.read(*region, range.start + from, &mut chunk[start..])
            }
            Piece::Bytes(bytes) => {
                let from = usize::try_from(from).expect("the piece is in memory");
                chunk.extend_from_slice(&bytes[from..from + n]);
                Ok(())
            }
        }
    }
}
