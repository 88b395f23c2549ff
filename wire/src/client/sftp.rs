//! Implements the sftp session of a connection, which sends requests and waits for answers with a
//! time limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

/// If no answer arrives for this long, the session fails.
pub(super) const STALLED: Duration = Duration::from_secs(60);
/// The size in bytes of the largest request that every server accepts.
const SMALL: u64 = 32 << 10;
/// Maximum number of bytes that the client requests or sends in one request, even if the server
/// announces a larger limit.
const LARGE: u64 = 255 << 10;

/// An sftp session.
pub(super) struct Sftp {
    raw: RawSftpSession,
    /// Maximum number of bytes to read in one request.
    pub(super) read_size: u32,
    /// Maximum number of bytes to write in one request.
    pub(super) write_size: usize,
    /// The time at which the last answer arrived.
    heard: Mutex<Instant>,
    broken: AtomicBool,
}

impl Sftp {
    /// Starts a session on a stream to a server.
    pub(super) async fn start<S>(stream: S) -> SftpResult<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let raw = RawSftpSession::new(stream);
        // The library's time limit begins when a request is sent. On a slow line with many
        // requests, this limit would be too short, so `answer` has its own limit.
        raw.set_timeout(u64::from(u32::MAX));
        let mut session = Self {
            raw,
            read_size: size(SMALL),
            write_size: size(SMALL) as usize,
            heard: Mutex::new(Instant::now()),
            broken: AtomicBool::new(false),
        };
        let version = session.answer(session.raw.init()).await?;
        if version.extensions.contains_key("limits@openssh.com") {
            let limits = session.answer(session.raw.limits()).await?;
            session.read_size = size(limits.max_read_len);
            session.write_size = size(limits.max_write_len) as usize;
            session.raw.set_limits(limits.into());
        }
        Ok(session)
    }

    /// Whether the session still seems usable.
    pub(super) fn is_alive(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// The time at which the last answer arrived.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn open(&self, path: &str, flags: OpenFlags) -> SftpResult<String> {
        self.open_sized(path, flags, None).await
    }

    /// Opens a file. If `size` is given, the request states that the file will have this size, in
    /// bytes.
    pub(super) async fn open_sized(
        &self,
        path: &str,
        flags: OpenFlags,
        size: Option<u64>,
    ) -> SftpResult<String> {
        let attributes = FileAttributes { size, ..FileAttributes::empty() };
        let opened = self.answer(self.raw.open(path, flags, attributes)).await?;
        Ok(opened.handle)
    }

    /// Reads at most `length` bytes from `offset`. At the end of the file, the result is empty.
    pub(super) async fn read(&self, handle: &str, offset: u64, length: u32) -> SftpResult<Vec<u8>> {
        match self.answer(self.raw.read(handle, offset, length)).await {
            Ok(data) if data.data.len() > length as usize => {
                self.broken.store(true, Ordering::Relaxed);
                Err(Error::UnexpectedBehavior("the server sends more than requested".to_owned()))
            }
            Ok(data) => Ok(data.data),
            Err(err) if is_status(&err, StatusCode::Eof) => Ok(Vec::new()),
            Err(err) => Err(err),
        }
    }

    pub(super) async fn write(&self, handle: &str, offset: u64, bytes: Vec<u8>) -> SftpResult<()> {
        self.answer(self.raw.write(handle, offset, bytes)).await.map(drop)
    }

    /// The size of an open file, if the server reports it.
    pub(super) async fn size(&self, handle: &str) -> SftpResult<Option<u64>> {
        Ok(self.answer(self.raw.fstat(handle)).await?.attrs.size)
    }

    pub(super) async fn close(&self, handle: &str) -> SftpResult<()> {
        self.answer(self.raw.close(handle)).await.map(drop)
    }

    /// Waits for the answer to `request`. Times out only if no answer to any request arrives for
    /// [`STALLED`]. On a slow line, the answers to earlier requests must arrive first.
    async fn answer<T>(&self, request: impl Future<Output = SftpResult<T>>) -> SftpResult<T> {
        tokio::pin!(request);
        let mut since = Instant::now();
        let answer = loop {
            if let Ok(answer) = timeout_at(since + STALLED, &mut request).await {
                break answer;
            }
            let heard = self.heard();
            if heard <= since {
                break Err(Error::Timeout);
            }
            since = heard;
        };
        match &answer {
            Ok(_) | Err(Error::Status(_)) => {
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            Err(_) => self.broken.store(true, Ordering::Relaxed),
        }
        answer
    }
}

/// The request size for a server that allows `allowed` bytes. If `allowed` is zero, the server has
/// announced no limit.
fn size(allowed: u64) -> u32 {
    let usable = if allowed == 0 { SMALL } else { allowed.min(LARGE) };
    u32::try_from(usable).expect("LARGE fits")
}

pub(super) fn is_status(err: &Error, code: StatusCode) -> bool {
    matches!(err, Error::Status(status) if status.status_code == code)
}

#[cfg(test)]
mod tests;
