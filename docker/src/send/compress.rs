//! Compresses blobs on several threads. A blob is split into chunks of a fixed length, regardless
//! of the number of threads. Each chunk becomes its own gzip member (RFC 1952) or zstd frame (RFC
//! 8878). So the compressed blob is the same on every machine, and an unpacker reads it as one
//! stream.

use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use deploy_wire::image::Compression;
use flate2::GzBuilder;

use crate::error::Result;

/// The maximum number of threads that compress. Additional threads would only wait for the network.
pub const MAX_THREADS: usize = 8;

/// The number of uncompressed bytes in a chunk.
pub fn chunk_bytes(compression: Compression) -> usize {
    match compression {
        Compression::Gzip => 1 << 20,
        // With chunks of this length, all frames together are nearly as small as a single frame.
        Compression::Zstd => 2 << 20,
    }
}

/// A chunk of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The number of the blob.
    pub blob: usize,
    /// The contents of the chunk.
    pub bytes: Vec<u8>,
    /// Whether this is the blob's last chunk.
    pub last: bool,
}

type Job = (Chunk, SyncSender<io::Result<Chunk>>);

/// Compresses chunks. `produce` passes the chunks to its argument, which returns whether it accepts
/// more chunks. `consume` gets the compressed chunks in the same order. The first error ends the
/// work.
pub fn compress(
    compression: Compression,
    threads: usize,
    produce: impl FnOnce(&mut dyn FnMut(Chunk) -> bool) -> Result<()> + Send,
    mut consume: impl FnMut(Chunk) -> Result<()>,
) -> Result<()> {
    let threads = threads.clamp(1, MAX_THREADS);
    let (to_workers, jobs) = sync_channel::<Job>(0);
    let (to_consumer, ordered) = sync_channel::<Receiver<io::Result<Chunk>>>(threads + 1);
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let jobs = &jobs;
        for _ in 0..threads {
            scope.spawn(move || work(compression, jobs));
        }
        let producing = scope.spawn(move || {
            produce(&mut |chunk| {
                let (done, result) = sync_channel(1);
                to_consumer.send(result).is_ok() && to_workers.send((chunk, done)).is_ok()
            })
        });
        let mut consumed = Ok(());
        for result in &ordered {
            consumed = match result.recv() {
                Ok(Ok(chunk)) => consume(chunk),
                Ok(Err(cause)) => {
                    Err(crate::Error::Input { what: "the data to compress".to_owned(), cause })
                }
                // The thread that compressed this chunk panicked. The scope passes the panic on.
                Err(_) => Ok(()),
            };
            if consumed.is_err() {
                break;
            }
        }
        drop(ordered);
        let produced = producing.join().expect("the thread that reads does not panic");
        consumed.and(produced)
    })
}

fn work(compression: Compression, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, done)) = job else { return };
        let compressed = one(compression, &chunk.bytes);
        // An error is ignored, because it only means that the consumer has stopped.
        let _ = done.send(compressed.map(|bytes| Chunk { bytes, ..chunk }));
    }
}

/// Compresses one chunk.
fn one(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(bytes.len() / 2);
    match compression {
        Compression::Gzip => {
            // The gzip header has neither name nor time, so the same bytes give the same blob.
            let mut encoder = GzBuilder::new().write(out, flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
            encoder.write_all(bytes)?;
            encoder.finish()
        }
    }
}

const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 3;

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use deploy_store::Limits;
    use deploy_store::layer::decode::Decoder;

    use super::*;

    fn blobs() -> Vec<Vec<u8>> {
        let text = |n: usize| (0..n).flat_map(|n| n.to_string().into_bytes()).collect();
        vec![text(900_000), text(10), text(400_000)]
    }

    fn all(compression: Compression, threads: usize) -> Vec<Vec<u8>> {
        let blobs = blobs();
        let mut out = vec![Vec::new(); blobs.len()];
        let produce = |next: &mut dyn FnMut(Chunk) -> bool| {
            for (blob, bytes) in blobs.iter().enumerate() {
                let mut chunks = bytes.chunks(chunk_bytes(compression)).peekable();
                while let Some(chunk) = chunks.next() {
                    let last = chunks.peek().is_none();
                    assert!(next(Chunk { blob, bytes: chunk.to_vec(), last }));
                }
            }
            Ok(())
        };
        let consume = |chunk: Chunk| {
            out[chunk.blob].extend_from_slice(&chunk.bytes);
            Ok(())
        };
        compress(compression, threads, produce, consume).unwrap();
        out
    }

    #[test]
    fn output_is_independent_of_threads_and_decompresses() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let one = all(compression, 1);
            assert!(one == all(compression, 7), "{compression}");
            for (compressed, plain) in one.iter().zip(blobs()) {
                let mut again = Vec::new();
                let mut decoder = Decoder::new(&compressed[..], Limits::STANDARD).unwrap();
                decoder.read_to_end(&mut again).unwrap();
                assert!(again == plain, "{compression}");
            }
        }
    }

    #[test]
    fn first_error_ends_compression() {
        let chunk = || Chunk { blob: 0, bytes: vec![1; 10], last: false };
        let mut taken = 0;
        let refuse = |_| {
            taken += 1;
            if taken == 3 { Err(crate::Error::archive("enough")) } else { Ok(()) }
        };
        let endless = |next: &mut dyn FnMut(Chunk) -> bool| {
            while next(chunk()) {}
            Ok(())
        };
        let err = compress(Compression::Gzip, 2, endless, refuse).unwrap_err();
        assert!(err.to_string().contains("enough"));
        assert_eq!(taken, 3);
        let failing = |next: &mut dyn FnMut(Chunk) -> bool| {
            assert!(next(chunk()));
            Err(crate::Error::archive("gone"))
        };
        let err = compress(Compression::Gzip, 2, failing, |_| Ok(())).unwrap_err();
        assert!(err.to_string().contains("gone"));
    }
}
