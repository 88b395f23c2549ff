//! What comes on a command's standard input: a stream of a few chunks at a time, so that
//! who sends waits for who reads. It ends well only where the client said that it ends.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use deploy_store::Size;
use tokio::sync::mpsc;

/// Chunks that wait to be read before the client has to.
const MAX_CHUNKS: usize = 4;

/// The end that is read.
#[derive(Debug)]
pub struct Input {
    pieces: Option<mpsc::Receiver<Piece>>,
    current: Bytes,
    ended: bool,
}

/// The end that is written to. Dropped before [`Piece::End`], the input was cut off.
pub type Feed = mpsc::Sender<Piece>;

/// What goes through.
#[derive(Debug)]
pub enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// There is no more.
    End,
}

/// Both ends of an input.
pub fn channel() -> (Feed, Input) {
    let (feed, pieces) = mpsc::channel(MAX_CHUNKS);
    (feed, Input { pieces: Some(pieces), current: Bytes::new(), ended: false })
}

impl Input {
    /// No input, as at the prompt, where what comes is the next line.
    pub fn none() -> Self {
        Self { pieces: None, current: Bytes::new(), ended: true }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.pieces.is_none()
    }

    /// The next bytes; `None` at the end, an error where it was cut off before.
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

    /// Waits until some of it, or the end, is there.
    pub async fn begin(&mut self) -> io::Result<()> {
        if let Some(bytes) = self.next().await? {
            self.current = bytes;
        }
        Ok(())
    }

    /// All that comes; an error if that is more than `limit` bytes.
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
                let text = "standard input was cut off: the client went away";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
        }
    }
}

/// For threads that may wait.
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
    fn a_reader_gets_all_and_then_the_end() {
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
    async fn what_was_cut_off_is_no_end() {
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
    async fn all_is_taken_up_to_a_limit() {
        for (limit, taken) in [(4, true), (3, false)] {
            let (feed, mut input) = channel();
            for piece in [Piece::Bytes("ab".into()), Piece::Bytes("cd".into()), Piece::End] {
                feed.send(piece).await.unwrap();
            }
            assert_eq!(input.all(limit).await.is_ok_and(|all| all == b"abcd"), taken);
        }
    }

    #[tokio::test]
    async fn where_there_is_none_it_has_ended() {
        let mut input = Input::none();
        assert!(input.is_none() && input.next().await.unwrap().is_none());
        assert_eq!(input.read(&mut [0]).unwrap(), 0);
    }
}
