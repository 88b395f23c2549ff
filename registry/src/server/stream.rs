//! A connection's byte stream with its deadlines: so long to log in, and so long at
//! most in all, but never while something moves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, interval};

/// Time for the key exchange and the login.
const LOGIN: Duration = Duration::from_secs(20);
/// A connection past its deadline is cut when nothing moved for this long.
const STILL: Duration = Duration::from_secs(60);
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// A TCP stream that ends by itself.
#[derive(Debug)]
pub struct DeadlineStream {
    inner: TcpStream,
    opened: Instant,
    moved: Instant,
    logged_in: Arc<AtomicBool>,
    deadline: Duration,
    timer: Interval,
}

impl DeadlineStream {
    /// Wraps `inner`. `logged_in` is set when the login is done; a `deadline` of zero is
    /// none.
    pub fn new(inner: TcpStream, logged_in: Arc<AtomicBool>, deadline: Duration) -> Self {
        let now = Instant::now();
        let timer = interval(CHECK_EVERY);
        Self { inner, opened: now, moved: now, logged_in, deadline, timer }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.timer.poll_tick(context).is_ready() {
            let age = self.opened.elapsed();
            if !self.logged_in.load(Ordering::Relaxed) {
                if age > LOGIN {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no login in time"));
                }
            } else if !self.deadline.is_zero()
                && age > self.deadline
                && self.moved.elapsed() > STILL
            {
                let why = "older than the deadline and still";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        }
        Ok(())
    }
}

impl AsyncRead for DeadlineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved = Instant::now();
        }
        polled
    }
}

impl AsyncWrite for DeadlineStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(n)) if n > 0) {
            self.moved = Instant::now();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
