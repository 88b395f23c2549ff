//! Asking a running agent, from a subcommand.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use deploy_store::disk::Dir;

use crate::control::protocol::{Answer, MAX_ANSWER, PATIENCE, Request, SOCKET};

/// How long to wait for a directory that somebody else has just now, who cannot be asked:
/// another subcommand, or an agent that starts or ends.
const BUSY: Duration = Duration::from_secs(10);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// An agent that cannot be asked, or whose answer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory, or the socket in it.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The answer does not come.
    #[error("ask the agent: {cause}")]
    Io {
        /// Why.
        cause: io::Error,
    },
    /// The agent ended, or was ended, first.
    #[error(
        "the agent went away before it answered; what it was doing goes on, or is undone, when it is started again"
    )]
    Gone,
    /// What came is no answer.
    #[error("the agent's answer cannot be read: {cause}")]
    BadAnswer {
        /// Why.
        cause: String,
    },
}

/// Has a request served: by the agent of `dir` if one runs, else by `alone`, which takes
/// the lock of the directory itself.
pub fn either(
    dir: &Path,
    request: &Request,
    mut alone: impl FnMut() -> Result<Answer, Error>,
) -> Result<Answer, Error> {
    let deadline = Instant::now() + BUSY;
    let at = Dir::open(dir)?;
    loop {
        if let Some(stream) = at.connect(SOCKET)? {
            return ask(stream, request);
        }
        match alone() {
            Err(Error::Store(deploy_store::Error::Busy { .. })) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Sends the request, waits for the answer.
fn ask(mut stream: UnixStream, request: &Request) -> Result<Answer, Error> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Gone,
        io::ErrorKind::WouldBlock => {
            Error::Io { cause: io::Error::new(io::ErrorKind::TimedOut, "it shows no sign of life") }
        }
        _ => Error::Io { cause },
    };
    stream.set_read_timeout(Some(2 * PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line =
        serde_json::to_vec(request).map_err(|err| Error::BadAnswer { cause: err.to_string() })?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut json = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    // The first sign of life comes at once.
    let mut signs = 0;
    loop {
        match stream.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => json.extend_from_slice(&buffer[..n]),
        }
        // Signs of life are no part of it.
        if json.iter().all(u8::is_ascii_whitespace) {
            signs += json.len();
            json.clear();
            if signs == 2 {
                tracing::info!(event = "waiting", "the agent is at work; waiting for it");
            }
        }
        if json.len() as u64 > MAX_ANSWER {
            return Err(Error::BadAnswer { cause: format!("it is over {MAX_ANSWER} bytes") });
        }
    }
    if json.last() != Some(&b'\n') {
        return Err(Error::Gone);
    }
    serde_json::from_slice(&json).map_err(|err| Error::BadAnswer { cause: err.to_string() })
}
