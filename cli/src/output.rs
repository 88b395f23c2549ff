//! Prints to the standard output of a program.

use std::io::{self, Write as _};

/// Prints `bytes` to standard output and flushes it. If the reader has closed the pipe, the
/// function succeeds, because the reader needs no more output.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
