//! Reads one layer: hashes, decompresses and lists it, and writes it to the temporary file. For a
//! large layer, threads do all of this at once.

use std::io::{self, Read};
use std::thread::{self, JoinHandle};

use deploy_store::layer::decode::Decoder;
use deploy_store::layer::pipe::{Filled, Outlet, long_pipe, pipe};
use deploy_store::{Digest, Error as StoreError, Hasher, Limits};

use super::budget::Budget;
use super::listing::Listing;
use super::spool::{Appender, Region, Tee};
use crate::error::{Error, Result};

/// Bytes of memory for a compressed layer that waits for decompression: meanwhile the next layers
/// are read.
const AHEAD: usize = 8 << 20;

/// The result of listing a tar.
#[derive(Debug)]
pub struct Listed {
    /// sha256 of the layer without compression, unless the caller knows that digest.
    pub diff_id: Digest,
    /// The length without compression, in bytes.
    pub length: u64,
    /// Whether its bytes are in the temporary file.
    pub kept: bool,
    /// The members.
    pub listing: Listing,
}

/// A tar that was read.
#[derive(Debug)]
pub struct Tar {
    /// sha256 of the file as received.
    pub digest: Digest,
    /// The length as received, in bytes.
    pub size: u64,
    /// sha256 of the tar without compression.
    pub diff_id: Digest,
    /// The length without compression, in bytes.
    pub length: u64,
    /// Where the layer is, if its bytes were kept.
    pub region: Option<Region>,
    /// The members.
    pub listing: Listing,
}

/// Where a layer goes, and its limits.
#[derive(Debug)]
pub struct Room {
    /// Takes the layer's bytes.
    pub appender: Appender,
    /// The limits.
    pub limits: Limits,
    /// Memory for the layer's names.
    pub budget: Budget,
}

/// Reads and hashes a layer here, while other threads decompress and list it. The threads may
/// continue after this function returns.
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
        // The digest is needed all the same.
        return Ok((hash_rest(hasher, &mut whole)?, listing));
    }
    Ok((hasher.finish(), listing))
}

/// The digest after the rest was read.
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
        // Several layers are read at once: more threads would only pass on cached data.
        return list(Decoder::new(compressed, room.limits), Some(Hasher::default()), room);
    }
    let (mut inlet, outlet) = pipe();
    let limits = room.limits;
    thread::scope(|scope| {
        let inflating = scope.spawn(move || {
            let mut decoder = Decoder::new(compressed, limits)?;
            // The reader gets the error.
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

/// Whether the layers that are read at once keep all processors busy.
fn few_processors() -> bool {
    thread::available_parallelism().is_ok_and(|processors| processors.get() <= 2)
}

/// Lists the tar, and writes it to the temporary file. `hasher` is `None` if the caller knows the
/// digest.
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
    // The last body may lack its padding.
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

/// The error matters only if a manifest says that this file is a layer.
fn bad_layer(err: StoreError) -> Error {
    Error::archive(match err {
        StoreError::BadArchive { reason } => reason,
        other => format!("cannot be taken: {other}"),
    })
}
