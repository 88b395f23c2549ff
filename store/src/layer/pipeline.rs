//! Runs the stages of reading an archive, each in its own thread. The calling thread reads the
//! bytes of the blob, a second thread decompresses the bytes, and a third thread reads the tar
//! format. Bounded streams connect the threads, so that no thread gets far ahead of the next
//! thread.
//!
//! Each stage ends at the end of its input, or when the next stage has ended. An error in any stage
//! closes the streams on both sides of the stage, so the other stages end, too.

use std::io::{self, Read};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::decode::Decoder;
use super::pipe::{Filled, Inlet, Outlet, pipe};
use crate::error::{Error, Result};
use crate::limits::Limits;

/// Decompresses `source` and passes the result to `read`. The flag that `read` gets states whether
/// the compressed form is framed ([`Decoder::is_framed`]). `seen` gets every byte that is read from
/// `source`. Returns two results: the result of reading `source`, and the result of the
/// decompression and of `read`. If `read` ends early, `source` may not be read to its end. If
/// `read` succeeds and has read to the end, the compressed form was checked to its end.
pub fn run<R: Read, T: Send>(
    source: &mut R,
    limits: Limits,
    seen: impl FnMut(&[u8]),
    read: impl FnOnce(Outlet, bool) -> Result<T> + Send,
) -> (io::Result<Filled>, Result<T>) {
    thread::scope(|scope| {
        let (mut inlet, packed) = pipe();
        let (plain_inlet, plain) = pipe();
        let (tell, framed) = sync_channel(1);
        let decoding = scope.spawn(move || decode(packed, plain_inlet, limits, &tell));
        // If the decoder could not begin, no flag was sent, and the decoder's error is the result.
        let reading = scope.spawn(move || framed.recv().ok().map(|framed| read(plain, framed)));
        let filled = inlet.fill(source, seen);
        drop(inlet);
        let decoded = joined(decoding.join());
        let read = match joined(reading.join()) {
            Some(Err(err)) => Err(err),
            Some(Ok(read)) => decoded.map(|()| read),
            None => decoded.and_then(|()| Err(Error::bad_archive("was not read"))),
        };
        (filled, read)
    })
}

/// Decompresses `packed` into `plain`. The function fails if the decoder cannot begin. Later errors
/// of the compressed form are part of the stream: the reader first gets the bytes before the error,
/// and then the error.
fn decode(
    packed: Outlet,
    mut plain: Inlet,
    limits: Limits,
    framed: &SyncSender<bool>,
) -> Result<()> {
    let mut decoder = Decoder::new(packed, limits)?;
    if framed.send(decoder.is_framed()).is_ok() {
        // The reader gets every error. If the reader reads to the end, the whole compressed form is
        // verified.
        let _ = plain.fill(&mut decoder, |_| {});
    }
    Ok(())
}

/// Returns the result of a thread. If the thread panicked, the panic continues here.
pub(crate) fn joined<T>(ended: thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
