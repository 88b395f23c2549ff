//! What a script prints: logged line by line, the end of it kept.
//!
//! It goes through a pipe, as programs that open `/dev/stderr` empty a file. What the script leaves
//! running can print on when the agent has ended, by whatever: a keeper has the pipe open, too, and
//! from then on passes over what comes through it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;

use rustix::io::Errno;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

/// The keeper: waits for the agent's end on its standard input, then reads from the pipe, which is
/// its standard output, until nobody can print any more.
const KEEPER: &str =
    "read -r end; exec cat <&1 >/dev/null # what deploy-agent's script left prints";

/// Bytes of output that are kept.
pub const MAX_KEPT: usize = 64 << 10;
/// Bytes that a pipe holds (pipe(7)).
const PIPE: usize = 64 << 10;
/// Longest line of output that is logged as one.
pub const MAX_LINE: usize = 8 << 10;

/// The reading end of a script's stdout and stderr.
#[derive(Debug)]
pub struct Output {
    pipe: Receiver,
    buffer: Vec<u8>,
    lines: Lines,
    ended: bool,
    /// Closed with the agent's end, however it comes.
    life: Option<PipeWriter>,
}

impl Output {
    /// Reads from `pipe`.
    pub fn new(pipe: PipeReader) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(OwnedFd::from(pipe))?;
        let (buffer, lines) = (vec![0; 16 << 10], Lines::default());
        Ok(Self { pipe, buffer, lines, ended: false, life: None })
    }

    /// Sees to it that printing ends nobody, and holds nobody up, when the agent has ended.
    pub fn outlive(&mut self) -> io::Result<()> {
        // Opened anew: this one does not wait for what comes, and the keeper has to.
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

    /// Whether all who could write have closed their end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Waits for some output and logs it. May be dropped at any time.
    pub async fn read_some(&mut self) {
        // An error of a pipe is its end, as far as we are concerned.
        let n = self.pipe.read(&mut self.buffer).await.unwrap_or(0);
        self.take(n);
    }

    /// Logs what is in the pipe now, without waiting. The runtime may not know yet that
    /// there is something, so the pipe itself is asked. No more than it holds: what goes on
    /// to print would be waited for.
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

    /// The end of the output so far. What processes left in the background go on to
    /// print is logged too, as long as the agent runs.
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
    // Escaped where lines are written, as all that is logged.
    tracing::info!(event = "script_output", "script: {}", String::from_utf8_lossy(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_long_lines_are_cut() {
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
