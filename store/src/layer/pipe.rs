//! Implements a bounded stream of bytes between two threads. One thread fills the stream, and the
//! other thread reads the stream. The reader returns used chunks, so that the other thread can fill
//! them again.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// The number of bytes in a chunk.
const CHUNK: usize = 256 << 10;
/// The usual maximum number of chunks that wait to be read. In addition, one chunk may be in use by
/// the thread that fills the stream, and one chunk by the reader.
const WAITING: usize = 4;

/// The end that fills the stream. When this end is dropped, the stream ends.
#[derive(Debug)]
pub struct Inlet {
    to: SyncSender<io::Result<Chunk>>,
    back: Receiver<Box<[u8]>>,
}

/// The end that reads the stream. When this end is dropped, the filling stops.
#[derive(Debug)]
pub struct Outlet {
    from: Receiver<io::Result<Chunk>>,
    back: Sender<Box<[u8]>>,
    current: Chunk,
}

/// The reason why the filling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// The input was read to its end.
    Whole,
    /// The reading end was dropped before the input was read to its end.
    Unread,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Box<[u8]>,
    at: usize,
    end: usize,
}

/// Creates a stream.
pub fn pipe() -> (Inlet, Outlet) {
    long_pipe(WAITING * CHUNK)
}

/// Creates a stream that accepts about `bytes` bytes before the other end begins to read.
pub fn long_pipe(bytes: usize) -> (Inlet, Outlet) {
    let (to, from) = sync_channel(bytes / CHUNK);
    let (give_back, back) = channel();
    (Inlet { to, back }, Outlet { from, back: give_back, current: Chunk::default() })
}

impl Inlet {
    /// Fills the stream from `reader`. `seen` gets all bytes before the other end gets them. If
    /// `reader` fails, the other end gets the error after the bytes that were read.
    pub fn fill(
        &mut self,
        reader: &mut impl Read,
        mut seen: impl FnMut(&[u8]),
    ) -> io::Result<Filled> {
        loop {
            let mut bytes =
                self.back.try_recv().unwrap_or_else(|_| vec![0; CHUNK].into_boxed_slice());
            let mut end = 0;
            let read = read_full(reader, &mut bytes, &mut end);
            seen(&bytes[..end]);
            let last = end < bytes.len();
            if end > 0 && self.to.send(Ok(Chunk { bytes, at: 0, end })).is_err() {
                return Ok(Filled::Unread);
            }
            if let Err(err) = read {
                // If the send fails, the other end was dropped, so no thread needs the error.
                let _ = self.to.send(Err(io::Error::new(err.kind(), err.to_string())));
                return Err(err);
            }
            if last {
                return Ok(Filled::Whole);
            }
        }
    }
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.at == self.current.end {
            // The end of the channel is the end of the stream.
            let Ok(next) = self.from.recv() else { return Ok(0) };
            let read = std::mem::replace(&mut self.current, next?);
            // If the send fails, the end that fills the stream was dropped, so no thread needs the
            // chunk.
            let _ = self.back.send(read.bytes);
        }
        let Chunk { bytes, at, end } = &mut self.current;
        let n = buffer.len().min(*end - *at);
        buffer[..n].copy_from_slice(&bytes[*at..*at + n]);
        *at += n;
        Ok(n)
    }
}

/// Fills `bytes` from `reader` as far as possible. The function sets `end` to the number of bytes
/// that were read.
fn read_full(reader: &mut impl Read, bytes: &mut [u8], end: &mut usize) -> io::Result<()> {
    while *end < bytes.len() {
        match reader.read(&mut bytes[*end..]) {
            Ok(0) => break,
            Ok(n) => *end += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_before_the_error() {
        let bytes: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
        let (mut inlet, mut outlet) = pipe();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                assert_eq!(inlet.fill(&mut &bytes[..], |_| {}).unwrap(), Filled::Whole);
                let mut broken = Cut(7);
                assert_eq!(inlet.fill(&mut broken, |_| {}).unwrap_err().to_string(), "cut");
            });
            let mut read = vec![0; 3_000_007];
            outlet.read_exact(&mut read).unwrap();
            assert!(read[..3_000_000].iter().copied().eq((0..=250).cycle().take(3_000_000)));
            assert_eq!(read[3_000_000..], [1; 7]);
            assert_eq!(outlet.read(&mut read).unwrap_err().to_string(), "cut");
            assert_eq!(outlet.read(&mut read).unwrap(), 0);
        });
    }

    #[test]
    fn filling_ends_when_the_reading_end_is_dropped() {
        let (mut inlet, mut outlet) = pipe();
        std::thread::scope(|scope| {
            let filling = scope.spawn(move || inlet.fill(&mut io::repeat(1), |_| {}).unwrap());
            outlet.read_exact(&mut [0; 10]).unwrap();
            drop(outlet);
            assert_eq!(filling.join().unwrap(), Filled::Unread);
        });
    }

    /// A reader that returns this many bytes of value 1, and then an error.
    struct Cut(usize);

    impl Read for Cut {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("cut"));
            }
            let n = self.0.min(buffer.len());
            buffer[..n].fill(1);
            self.0 -= n;
            Ok(n)
        }
    }
}
