//! Reads zstd (RFC 8878) frame by frame, so that the window of each frame and the bytes after the
//! frame can be checked.

use std::fmt;
use std::io::{self, BufRead, Cursor, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::trailing::only_padding;

/// The first bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The maximum length of a frame's header in bytes.
const HEADER: usize = 18;
/// The decoder accepts windows of up to 2 to the power of this number of bytes. zstd supports no
/// larger window on this kind of machine. The limit of `-max-window` is checked before the decoder
/// gets a frame.
const MOST: u32 = if usize::BITS > 32 { 31 } else { 30 };

/// The decompressed bytes of all frames, one after another.
pub struct Frames<R> {
    source: R,
    decoder: Decoder<'static>,
    /// The first bytes of a frame. They were read to examine the header, and the decoder has not
    /// received them yet.
    head: Vec<u8>,
    between: bool,
    /// The largest allowed window, in bytes.
    window: u64,
}

impl<R> fmt::Debug for Frames<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("between", &self.between).finish_non_exhaustive()
    }
}

impl<R: BufRead> Frames<R> {
    /// Reads from `source`, which begins with a frame. Windows may take up to `window` bytes of
    /// memory.
    pub fn new(source: R, window: u64) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MOST))?;
        Ok(Self { source, decoder, head: Vec::new(), between: true, window })
    }

    /// Returns whether another frame follows, and checks the window of that frame. Bytes that are
    /// not a frame must be padding.
    fn begin(&mut self) -> io::Result<bool> {
        while self.head.len() < HEADER {
            let bytes = match self.source.fill_buf() {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if bytes.is_empty() {
                break;
            }
            let n = bytes.len().min(HEADER - self.head.len());
            self.head.extend_from_slice(&bytes[..n]);
            self.source.consume(n);
        }
        if self.head.is_empty() {
            return Ok(false);
        }
        if !is_frame(&self.head) {
            let head = Cursor::new(std::mem::take(&mut self.head));
            return only_padding(&mut head.chain(&mut self.source), "zstd").map(|()| false);
        }
        match window_of(&self.head) {
            Some(window) if window > self.window => {
                let (window, most) = (mebibytes(window), mebibytes(self.window));
                let text = format!(
                    "it needs a zstd window of {window}, and {most} are allowed: pack the archive \
                     with a smaller --long (registries and agents allow more with -max-window)"
                );
                Err(io::Error::other(text))
            }
            _ => Ok(true),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.between {
                if !self.begin()? {
                    return Ok(0);
                }
                self.between = false;
            }
            let is_head = !self.head.is_empty();
            let bytes = if is_head { &self.head[..] } else { self.source.fill_buf()? };
            let is_end = bytes.is_empty();
            let (mut from, mut into) = (InBuffer::around(bytes), OutBuffer::around(buffer));
            let left = self.decoder.run(&mut from, &mut into)?;
            let (used, made) = (from.pos(), into.pos());
            if is_head {
                self.head.drain(..used);
            } else {
                self.source.consume(used);
            }
            self.between = left == 0;
            if made > 0 {
                return Ok(made);
            }
            if is_end && left > 0 {
                let text = "its zstd data end too early";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
    }
}

/// Whether `start` begins with a zstd frame, or with one of the sixteen kinds of skippable frames.
pub fn is_frame(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
        || (start.first().is_some_and(|byte| byte >> 4 == 5)
            && start.get(1..4) == Some(&[0x2a, 0x4d, 0x18]))
}

/// `head` is the start of a frame. Returns the size in bytes of the window that the frame needs.
/// Returns `None` if the frame is skippable or its header is incomplete.
fn window_of(head: &[u8]) -> Option<u64> {
    let (descriptor, rest) = head.strip_prefix(&MAGIC)?.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // This frame has a single segment, so its window is as large as its contents.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let bytes = rest.get(dictionary..dictionary + length)?;
    let size = bytes.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
    Some(if length == 2 { size + 256 } else { size })
}

fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(packed: &[u8], window: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // The source returns one byte at a time, like a slow pipe.
        let source = io::BufReader::with_capacity(1, packed);
        Frames::new(source, window)?.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn frames_are_concatenated_and_padding_is_allowed() {
        let mut all = packed(b"one", 17);
        all.extend(b"\x52\x2a\x4d\x18\x03\0\0\0abc");
        all.extend(packed(b"two", 20));
        all.extend(zstd::bulk::compress(b"three", 3).unwrap());
        assert_eq!(read(&all, 1 << 20).unwrap(), b"onetwothree");
        all.extend([0; 9000]);
        assert_eq!(read(&all, 1 << 20).unwrap(), b"onetwothree");
        all.extend(b"x");
        let refused = read(&all, 1 << 20).unwrap_err().to_string();
        assert!(refused.contains("9001 bytes follow the end of its zstd data"), "{refused}");
        let cut = packed(&[7; 5000], 17);
        for end in 5..cut.len() {
            assert!(read(&cut[..end], 1 << 20).is_err(), "{end}");
        }
    }

    #[test]
    fn too_large_window_is_refused() {
        let large = packed(b"text", 27);
        assert_eq!(read(&large, 128 << 20).unwrap(), b"text");
        let refused = read(&large, 64 << 20).unwrap_err().to_string();
        assert!(refused.contains("window of 128 MiB, and 64 MiB are allowed"), "{refused}");
        // The window of the second frame is checked, too.
        let later = [packed(b"text", 20), large].concat();
        assert!(read(&later, 64 << 20).unwrap_err().to_string().contains("128 MiB"));
        assert_eq!(window_of(&zstd::bulk::compress(&[1; 300], 3).unwrap()), Some(300));
    }
}
