//! Reads one layer: hashes, decompresses and lists it, and writes it to the temporary file. For a
//! large layer, several threads do these steps at the same time.

use std::io::{self, Read};
use std::thread::{self, JoinHandle};

use deploy_store::layer::decode::Decoder;
use deploy_store::layer::pipe::{Filled, Outlet, long_pipe, pipe};
use deploy_store::{Digest, Error as StoreError, Hasher, Limits};

use super::budget::Budget;
use super::listing::Listing;
use super::spool::{Appender, Region, Tee};
use crate::error::{Error, Result};

/// The number of bytes of a compressed layer that may wait in memory for decompression, while the
/// next layers are read.
const AHEAD: usize = 8 << 20;

/// The result of listing a tar.
#[derive(Debug)]
pub struct Listed {
    /// The sha256 of the uncompressed layer. If the caller already knew this digest, the field has
    /// no meaning.
    pub diff_id: Digest,
    /// The uncompressed length in bytes.
    pub length: u64,
    /// Whether the bytes of the layer are in the temporary file.
    pub kept: bool,
    /// The members.
    pub listing: Listing,
}

/// A tar that was read.
#[derive(Debug)]
pub struct Tar {
    /// The sha256 of the file as received.
    pub digest: Digest,
    /// The length of the file as received, in bytes.
    pub size: u64,
    /// The sha256 of the uncompressed tar.
    pub diff_id: Digest,
    /// The uncompressed length in bytes.
    pub length: u64,
    /// The region of the temporary file that has the layer, if the bytes were kept.
    pub region: Option<Region>,
    /// The members.
    pub listing: Listing,
}

/// The destination of a layer, and its limits.
#[derive(Debug)]
pub struct Room {
    /// Gets the bytes of the layer.
    pub appender: Appender,
    /// The limits.
    pub limits: Limits,
    /// The memory for the names in the layer.
    pub budget: Budget,
}

/// Reads and hashes a layer in the calling thread, while other threads decompress and list it.
/// These threads may continue after this function returns.
pub fn read_large(
    mut whole: impl Read,
    compressed: bool,
    room: Room,
) -> io::Result<(Digest, JoinHandle<Result<Listed>>)> {
    let (mut inlet, outlet) = if compressed { long_pipe(AHEAD) } else { pipe() };
    let listing = thread::spawn(move || {
        if compressed { inflate(outlet, room) } else { list(Ok(outlet), None, room) }
    });
    let mut hasher = Hasher::default();
    let filled = inlet.fill(&mut whole, |bytes| hasher.update(bytes));
    drop(inlet);
    if filled? == Filled::Unread {
        // The digest is needed even if the listing failed.
        return Ok((hash_rest(hasher, &mut whole)?, listing));
    }
    Ok((hasher.finish(), listing))
}

/// Reads the rest, and returns the digest of all bytes.
pub fn hash_rest(mut hasher: Hasher, rest: &mut dyn Read) -> io::Result<Digest> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn inflate(compressed: Outlet, room: Room) -> Result<Listed> {
    if !room.appender.keeps() && few_processors() {
        // Several layers are read at the same time, so more threads for this layer would not make
        // the import faster.
        return list(Decoder::new(compressed, room.limits), Some(Hasher::default()), room);
    }
    let (mut inlet, outlet) = pipe();
    let limits = room.limits;
    thread::scope(|scope| {
        let inflating = scope.spawn(move || {
            let mut decoder = Decoder::new(compressed, limits)?;
            // The reader of the stream gets the error.
            let _ = inlet.fill(&mut decoder, |_| {});
            Ok(())
        });
        let listed = list(Ok(outlet), Some(Hasher::default()), room);
        let inflated: Result<(), StoreError> =
            inflating.join().expect("the thread that inflates does not panic");
        match inflated {
            Err(err) => Err(bad_layer(err)),
            Ok(()) => listed,
        }
    })
}

/// Whether the layers that are read at the same time keep all processors busy.
fn few_processors() -> bool {
    thread::available_parallelism().is_ok_and(|processors| processors.get() <= 2)
}

/// Lists a tar, and writes it to the temporary file. `hasher` is `None` if the caller knows the
/// digest of the tar.
pub fn list<R: Read>(
    plain: Result<R, StoreError>,
    mut hasher: Option<Hasher>,
    room: Room,
) -> Result<Listed> {
    let plain = plain.map_err(bad_layer)?;
    let Room { mut appender, limits, budget } = room;
    let mut tee = Tee::new(plain, &mut appender, |bytes| {
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    });
    let listing = Listing::read(&mut tee, limits, &budget);
    let drained = tee.drain();
    // The last body in the tar may lack its padding, so zeros are appended.
    let filled = appender.length.next_multiple_of(512) - appender.length;
    let filled = io::copy(&mut io::repeat(0).take(filled), &mut appender);
    appender.finish();
    if let Some(failure) = appender.failure() {
        return Err(failure);
    }
    let listing = listing.map_err(bad_layer)?;
    drained.and(filled.map(drop)).map_err(|err| Error::archive(err.to_string()))?;
    let diff_id = hasher.map_or_else(|| Digest::of(b""), Hasher::finish);
    Ok(Listed { diff_id, length: appender.length, kept: appender.keeps(), listing })
}

/// Converts an error from the listing of a file. The error matters only if a manifest states that
/// this file is a layer.
fn bad_layer(err: StoreError) -> Error {
    Error::archive(match err {
        StoreError::BadArchive { reason } => reason,
        other => format!("cannot be imported: {other}"),
    })
}
