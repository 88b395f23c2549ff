//! Logs the script's output line by line, and keeps the end of the output.
//!
//! The output goes through a pipe and not to a file, because a program that opens `/dev/stderr`
//! would truncate the file. Background processes of the script can print even after the agent's
//! end, because a keeper process also has the pipe open. After the agent's end, the keeper discards
//! the output of the background processes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;

use rustix::io::Errno;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

/// The shell command of the keeper. The keeper first reads its standard input, which ends when the
/// agent ends. Then the keeper reads from the pipe, which is the keeper's standard output, until no
/// process has the other end open.
const KEEPER: &str =
    "read -r end; exec cat <&1 >/dev/null # deploy-agent: discards later output of the script";

/// Maximum number of bytes of output that are kept.
pub const MAX_KEPT: usize = 64 << 10;
/// Capacity of a pipe in bytes (pipe(7)).
const PIPE: usize = 64 << 10;
/// Maximum number of bytes of a logged line. The log splits longer lines.
pub const MAX_LINE: usize = 8 << 10;

/// The reading end of a script's stdout and stderr.
#[derive(Debug)]
pub struct Output {
    pipe: Receiver,
    buffer: Vec<u8>,
    lines: Lines,
    ended: bool,
    /// The writing end of the keeper's standard input. The system closes this end when the agent
    /// ends.
    life: Option<PipeWriter>,
}

impl Output {
    /// Output that comes through `pipe`.
    pub fn new(pipe: PipeReader) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(OwnedFd::from(pipe))?;
        let (buffer, lines) = (vec![0; 16 << 10], Lines::default());
        Ok(Self { pipe, buffer, lines, ended: false, life: None })
    }

    /// Starts the keeper. Because of the keeper, no process is blocked or killed when it prints
    /// after the agent's end.
    pub fn outlive(&mut self) -> io::Result<()> {
        // The pipe is opened again for the keeper. Reads from the agent's end must not block, but
        // reads from the keeper's end must block.
        let pipe = File::open(format!("/proc/self/fd/{}", self.pipe.as_raw_fd()))?;
        let (reader, life) = io::pipe()?;
        Command::new("/bin/sh")
            .args(["-c", KEEPER])
            .current_dir("/")
            .stdin(reader)
            .stdout(pipe)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        self.life = Some(life);
        Ok(())
    }

    /// Whether all writers have closed their end of the pipe.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Waits for some output and logs it. The future may be dropped at any time.
    pub async fn read_some(&mut self) {
        // A read error counts as the end of the pipe.
        let n = self.pipe.read(&mut self.buffer).await.unwrap_or(0);
        self.take(n);
    }

    /// Logs the present contents of the pipe, without waiting. This function reads the pipe
    /// directly, because the runtime may not yet know that the pipe contains output. The function
    /// reads at most the pipe's capacity, because background processes may continue to print.
    pub fn read_rest(&mut self) {
        let mut left = PIPE;
        while !self.ended && left > 0 {
            match rustix::io::read(&self.pipe, &mut self.buffer) {
                Ok(n) => {
                    left = left.saturating_sub(n);
                    self.take(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.take(0),
            }
        }
        self.lines.flush();
    }

    fn take(&mut self, n: usize) {
        self.ended = n == 0;
        self.lines.take(&self.buffer[..n]);
        if self.ended {
            self.lines.flush();
        }
    }

    /// Returns the end of the output so far. While the agent runs, it continues to log the output
    /// of background processes.
    pub fn leave(self) -> Vec<u8> {
        let kept = self.lines.kept.iter().copied().collect();
        if !self.ended {
            tokio::spawn(self.drain());
        }
        kept
    }

    async fn drain(mut self) {
        while !self.ended {
            self.read_some().await;
        }
    }
}

#[derive(Debug, Default)]
struct Lines {
    unfinished: Vec<u8>,
    kept: VecDeque<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let over = self.kept.len().saturating_sub(MAX_KEPT);
        self.kept.drain(..over);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in piece.chunks(MAX_LINE) {
                if self.unfinished.len() + piece.len() > MAX_LINE {
                    self.flush();
                }
                self.unfinished.extend(piece);
            }
            if piece.ends_with(b"\n") {
                self.unfinished.pop();
                log(&std::mem::take(&mut self.unfinished));
            }
        }
    }

    fn flush(&mut self) {
        if !self.unfinished.is_empty() {
            log(&std::mem::take(&mut self.unfinished));
        }
    }
}

fn log(line: &[u8]) {
    // The log escapes the text.
    tracing::info!(event = "script_output", "script: {}", String::from_utf8_lossy(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_output_is_kept_and_long_lines_are_split() {
        let mut lines = Lines::default();
        lines.take(&vec![b'x'; 3 * MAX_KEPT]);
        assert!(lines.unfinished.len() <= MAX_LINE);
        lines.take(b"\nend\nrest");
        assert_eq!(lines.unfinished, b"rest");
        assert_eq!(lines.kept.len(), MAX_KEPT);
        let kept: Vec<u8> = lines.kept.into_iter().collect();
        assert!(kept.ends_with(b"x\nend\nrest"));
    }
}
