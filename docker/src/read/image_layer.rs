//! Reads one layer: hashes, decompresses and lists it, and writes it to a temporary file. For a
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

/// The maximum number of bytes of a compressed layer that wait in memory for decompression. While
/// these bytes wait, the importer reads the next layers.
const AHEAD: usize = 8 << 20;

/// The result of listing a tar.
#[derive(Debug)]
pub struct Listed {
    /// The sha256 of the uncompressed layer. The field has no meaning if the caller passed no
    /// hasher.
    pub diff_id: Digest,
    /// The uncompressed length in bytes.
    pub length: u64,
    /// Whether the bytes of the layer are in a temporary file.
    pub kept: bool,
    /// The members.
    pub listing: Listing,
}

/// A layer that was read.
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
    /// The region of the temporary files with the layer's bytes; `None` if the bytes were not kept.
    pub region: Option<Region>,
    /// The members.
    pub listing: Listing,
}

/// The destination of a layer, and its limits.
#[derive(Debug)]
pub struct Room {
    /// The writer that gets the bytes of the layer.
    pub appender: Appender,
    /// The limits for reading the layer.
    pub limits: Limits,
    /// The memory budget for the names in all layers.
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

/// Reads `rest` to its end, and returns the digest of all bytes that `hasher` has seen.
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
        // The threads of several layers run at the same time. So another thread for this layer
        // would not make the import faster.
        return list(Decoder::new(compressed, room.limits), Some(Hasher::default()), room);
    }
    let (mut inlet, outlet) = pipe();
    let limits = room.limits;
    thread::scope(|scope| {
        let inflating = scope.spawn(move || {
            let mut decoder = Decoder::new(compressed, limits)?;
            // The error is ignored here, because the reader of the stream gets it.
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

/// Whether the machine has so few processors that the layers in progress keep all of them busy.
fn few_processors() -> bool {
    thread::available_parallelism().is_ok_and(|processors| processors.get() <= 2)
}

/// Lists a tar, and writes it to the appender of `room`. `hasher` is `None` if the caller knows the
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

/// Converts an error from the listing of a file. The error is reported only if a manifest states
/// that the file is a layer.
fn bad_layer(err: StoreError) -> Error {
    Error::archive(match err {
        StoreError::BadArchive { reason } => reason,
        other => format!("cannot be imported: {other}"),
    })
}
