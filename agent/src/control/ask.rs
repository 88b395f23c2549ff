//! Sends a subcommand's request to the running agent over the control socket.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use deploy_store::disk::Dir;

use crate::control::protocol::{Answer, MAX_ANSWER, PATIENCE, Request, SOCKET};

/// Maximum time to wait while the directory is locked and no agent serves requests. In this case,
/// the lock belongs to another subcommand, to an agent with `-once`, or to an agent that is
/// starting or ending.
const BUSY: Duration = Duration::from_secs(10);
/// Pause between two attempts to reach the agent or to lock the directory.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's directory, or the socket in the directory, cannot be used.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The request cannot be sent, or the answer cannot be received.
    #[error("ask the agent: {cause}")]
    Io {
        /// The cause.
        cause: io::Error,
    },
    /// The agent ended before it answered.
    #[error(
        "the agent ended before it answered; after its next start, the agent continues an \
         interrupted deploy or rollback; repeat other requests"
    )]
    Gone,
    /// The answer is malformed.
    #[error("the agent's answer is malformed: {cause}")]
    BadAnswer {
        /// The cause.
        cause: String,
    },
}

/// If an agent runs in `dir`, sends the request to that agent. Otherwise calls `alone`, which must
/// lock the directory itself.
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

fn ask(mut stream: UnixStream, request: &Request) -> Result<Answer, Error> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Gone,
        io::ErrorKind::WouldBlock => {
            let silent = "the agent does not respond";
            Error::Io { cause: io::Error::new(io::ErrorKind::TimedOut, silent) }
        }
        _ => Error::Io { cause },
    };
    stream.set_read_timeout(Some(2 * PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|err| Error::Io { cause: err.into() })?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut json = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    // The number of received keepalives. The agent sends the first keepalive immediately, so only
    // the second keepalive means that the agent is busy.
    let mut signs = 0;
    loop {
        match stream.read(&mut buffer).map_err(failed)? {
            0 => break,
            n => json.extend_from_slice(&buffer[..n]),
        }
        // Keepalives are not part of the answer.
        if json.iter().all(u8::is_ascii_whitespace) {
            signs += json.len();
            json.clear();
            if signs == 2 {
                tracing::info!(event = "waiting", "the agent is busy; waiting for its answer");
            }
        }
        if json.len() as u64 > MAX_ANSWER {
            return Err(Error::BadAnswer { cause: format!("more than {MAX_ANSWER} bytes") });
        }
    }
    if json.last() != Some(&b'\n') {
        return Err(Error::Gone);
    }
    serde_json::from_slice(&json).map_err(|err| Error::BadAnswer { cause: err.to_string() })
}
