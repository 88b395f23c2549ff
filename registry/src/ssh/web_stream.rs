//! Wraps a forwarded connection to the page. Its traffic counts as activity of the ssh connection.
//!
//! If nobody reads a channel's messages, the ssh library stops reading the whole connection. The
//! library then never learns that the client has room for more data. So while a write waits for
//! room, the stream reads ahead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::channel_io::MAX_AHEAD;

/// The stream reads ahead at most this many bytes in one step.
const PIECE: usize = 4 << 10;

/// A stream whose bytes count as activity.
#[derive(Debug)]
pub struct WebStream<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes that were read ahead.
    ahead: BytesMut,
    ended: bool,
}

impl<S: AsyncRead + Unpin> WebStream<S> {
    /// Wraps the stream of a connection. `activity` is the activity of the ssh connection.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, ahead: BytesMut::new(), ended: false }
    }

    /// Reads the bytes that have arrived. Fails if more than [`MAX_AHEAD`] bytes wait to be read.
    fn read_ahead(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.ended {
            let mut piece = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(read) => read?,
            }
            self.ended = buffer.filled().is_empty();
            self.ahead.extend_from_slice(buffer.filled());
            if self.ahead.len() > MAX_AHEAD {
                return Err(io::Error::other(
                    "the client sends requests but does not read the answers",
                ));
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WebStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.moved();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.activity.moved();
        } else {
            self.read_ahead(context)?;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
