//! Passes the standard input from a client to a command, as a stream. The stream holds only a few
//! pieces at a time, so a fast client has to wait for the command. The stream ends without an error
//! only if the client has ended its input.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use deploy_store::Size;
use tokio::sync::mpsc;

/// Maximum number of pieces that the stream holds. If the stream is full, the client has to wait.
const MAX_CHUNKS: usize = 4;

/// The reading end of the stream.
#[derive(Debug)]
pub struct Input {
    pieces: Option<mpsc::Receiver<Piece>>,
    current: Bytes,
    ended: bool,
}

/// The writing end of the stream. If the sender drops this end without sending [`Piece::End`], the
/// input counts as cut off.
pub type Feed = mpsc::Sender<Piece>;

/// A piece of the stream.
#[derive(Debug)]
pub enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// The end of the stream.
    End,
}

/// Makes a stream. Returns its writing end and its reading end.
pub fn channel() -> (Feed, Input) {
    let (feed, pieces) = mpsc::channel(MAX_CHUNKS);
    (feed, Input { pieces: Some(pieces), current: Bytes::new(), ended: false })
}

impl Input {
    /// An input without bytes. Commands at the prompt get this input, because the bytes that the
    /// user types next belong to the next command line.
    pub fn none() -> Self {
        Self { pieces: None, current: Bytes::new(), ended: true }
    }

    /// Whether [`Input::none`] made this input.
    pub fn is_none(&self) -> bool {
        self.pieces.is_none()
    }

    /// The next bytes, or `None` at the end. The function fails if the stream was cut off.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        match &mut self.pieces {
            Some(pieces) if !self.ended => {
                let piece = pieces.recv().await;
                self.take(piece)
            }
            _ => Ok(None),
        }
    }

    /// Waits until the first bytes, or the end of the stream, have arrived.
    pub async fn begin(&mut self) -> io::Result<()> {
        if let Some(bytes) = self.next().await? {
            self.current = bytes;
        }
        Ok(())
    }

    /// All bytes up to the end. The function fails if there are more than `limit` bytes, or if the
    /// stream was cut off.
    pub async fn all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > limit {
                let text = format!("standard input is larger than {}", Size(limit as u64));
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn take(&mut self, piece: Option<Piece>) -> io::Result<Option<Bytes>> {
        match piece {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            None => {
                let text = "standard input was cut off: the client disconnected";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
        }
    }
}

/// Each read blocks the thread until bytes have arrived.
impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(pieces) = self.pieces.as_mut().filter(|_| !self.ended) else { return Ok(0) };
            let piece = pieces.blocking_recv();
            match self.take(piece)? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_gets_all_bytes_and_then_the_end() {
        let (feed, mut input) = channel();
        let feeding = std::thread::spawn(move || {
            for n in 0..100_u8 {
                feed.blocking_send(Piece::Bytes(vec![n; 1000].into())).unwrap();
            }
            feed.blocking_send(Piece::Bytes(Bytes::new())).unwrap();
            feed.blocking_send(Piece::End).unwrap();
        });
        let mut all = Vec::new();
        input.read_to_end(&mut all).unwrap();
        feeding.join().unwrap();
        let want: Vec<u8> = (0..100).flat_map(|n| [n; 1000]).collect();
        assert!(all == want);
        assert_eq!(input.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn interrupted_input_is_an_error() {
        let (feed, mut input) = channel();
        feed.send(Piece::Bytes("ab".into())).await.unwrap();
        drop(feed);
        assert_eq!(input.next().await.unwrap().unwrap(), "ab");
        let err = input.next().await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof);
        let cut = tokio::task::spawn_blocking(move || input.read(&mut [0; 9])).await.unwrap();
        assert!(cut.is_err());
    }

    #[tokio::test]
    async fn all_accepts_input_up_to_its_limit() {
        for (limit, taken) in [(4, true), (3, false)] {
            let (feed, mut input) = channel();
            for piece in [Piece::Bytes("ab".into()), Piece::Bytes("cd".into()), Piece::End] {
                feed.send(piece).await.unwrap();
            }
            assert_eq!(input.all(limit).await.is_ok_and(|all| all == b"abcd"), taken);
        }
    }

    #[tokio::test]
    async fn input_none_is_at_its_end() {
        let mut input = Input::none();
        assert!(input.is_none() && input.next().await.unwrap().is_none());
        assert_eq!(input.read(&mut [0]).unwrap(), 0);
    }
}
