//! What a script prints: logged line by line, the end of it kept. It goes to a file that the agent
//! follows, so that whatever the script leaves running can print on when the agent has ended.
//!
//! The file is locked through the descriptor that the script has: it is free again when the last
//! process that can print into it has ended, or has closed it.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deploy_store::disk::Dir;
use deploy_store::{Error, Result};
use rustix::fs::{FlockOperation, OFlags};

/// Names of the files, in the agent's directory.
const PREFIX: &str = "script.out-";
/// Bytes of output that are kept.
pub const MAX_KEPT: usize = 64 << 10;
/// Longest line of output that is logged as one.
pub const MAX_LINE: usize = 8 << 10;
/// Bytes that may wait to be logged. What is printed faster is passed over, but for its end.
const MOST_BEHIND: u64 = 4 << 20;
/// The same when the script has ended: nobody waits for what goes on to print.
const MOST_AT_END: u64 = 1 << 20;
/// Bytes of the file from which on it is emptied while the script runs.
const MOST_WHILE_RUNNING: u64 = 16 << 20;
/// The same when the script has ended.
const MOST_AFTER: u64 = 1 << 20;
/// Pause between two looks at it while the script runs.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause when the script has ended.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The file that a script's stdout and stderr go to.
#[derive(Debug)]
pub struct Output {
    dir: Dir,
    name: CString,
    file: File,
    /// Bytes of it that were read.
    read: u64,
    buffer: Vec<u8>,
    lines: Lines,
}

impl Output {
    /// Makes a new file in the agent's directory `dir`, and opens it for the script.
    pub fn create(dir: &Path) -> Result<(Self, File)> {
        let dir = Dir::open(dir)?;
        loop {
            let name = new_name();
            match dir.create_file(&name, 0o600) {
                Ok(file) => {
                    let output = Self::new(dir, name, file, 0);
                    let writer = output.open_to_print();
                    if writer.is_err() {
                        output.remove();
                    }
                    return Ok((output, writer?));
                }
                Err(err) if err.exists() => {}
                Err(err) => return Err(err),
            }
        }
    }

    fn new(dir: Dir, name: CString, file: File, read: u64) -> Self {
        Self { dir, name, file, read, buffer: vec![0; 16 << 10], lines: Lines::default() }
    }

    /// Appending, so that it can be emptied at any time.
    fn open_to_print(&self) -> Result<File> {
        let failed = |cause| Error::io("open", self.dir.path_of(&self.name), cause);
        let writer = self.dir.open_to_append(&self.name)?;
        let inode = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        if inode(&writer).map_err(failed)? != inode(&self.file).map_err(failed)? {
            return Err(failed(std::io::Error::other("somebody else put another in its place")));
        }
        // As programs expect their output to be.
        rustix::fs::fcntl_setfl(&writer, OFlags::APPEND).map_err(|err| failed(err.into()))?;
        rustix::fs::flock(&writer, FlockOperation::NonBlockingLockExclusive)
            .map_err(|err| failed(err.into()))?;
        Ok(writer)
    }

    /// Whether nobody can print any more.
    pub fn ended(&self) -> bool {
        rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared).is_ok()
    }

    /// Waits a moment and logs what was printed. May be dropped at any time.
    pub async fn read_some(&mut self) {
        tokio::time::sleep(PAUSE).await;
        self.read(MOST_BEHIND);
        self.empty(MOST_WHILE_RUNNING);
    }

    /// Logs what was printed until now, without waiting.
    pub fn read_rest(&mut self) {
        self.read(MOST_AT_END);
        self.lines.flush();
    }

    /// Logs what is new, but no more than the last `most` bytes. Returns how much was new.
    fn read(&mut self, most: u64) -> u64 {
        // A file that cannot be read is at its end, as far as we are concerned.
        let len = self.file.metadata().map_or(self.read, |meta| meta.len());
        if len < self.read {
            // Opened anew, as `>/dev/stderr` does, which empties files.
            self.read = 0;
        }
        let new = len - self.read;
        if new > most {
            let skipped = new - most;
            self.lines.flush();
            tracing::warn!(
                event = "script_output_skipped",
                bytes = skipped,
                "script: {skipped} bytes of output are not logged: they came too fast"
            );
            self.read = len - most;
        }
        while self.read < len {
            let want = usize::try_from(len - self.read).unwrap_or(usize::MAX);
            let want = want.min(self.buffer.len());
            match self.file.read_at(&mut self.buffer[..want], self.read) {
                Ok(n) if n > 0 => {
                    self.read += n as u64;
                    self.lines.take(&self.buffer[..n]);
                }
                _ => break,
            }
        }
        new
    }

    /// Empties the file when all of it was read, and it is longer than `most`.
    fn empty(&mut self, most: u64) {
        if self.read <= most || self.file.metadata().is_ok_and(|meta| meta.len() > self.read) {
            return;
        }
        match self.file.set_len(0) {
            Ok(()) => self.read = 0,
            Err(err) => tracing::debug!("cannot empty the file of the script's output: {err}"),
        }
    }

    /// The end of the output so far. What processes left in the background go on to print is
    /// logged too, as long as the agent runs.
    pub fn leave(self) -> Vec<u8> {
        let kept = self.lines.kept.iter().copied().collect();
        if self.ended() {
            self.remove();
        } else {
            tokio::spawn(self.follow());
        }
        kept
    }

    /// Logs until nobody can print any more, then removes the file.
    pub async fn follow(mut self) {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let ended = self.ended();
            let new = self.read(MOST_BEHIND);
            self.empty(MOST_AFTER);
            if ended {
                self.lines.flush();
                return self.remove();
            }
            pause = if new > MOST_AFTER { PAUSE } else { (2 * pause).min(LONGEST_PAUSE) };
        }
    }

    fn remove(&self) {
        if let Err(err) = self.dir.remove_file(&self.name) {
            tracing::debug!("cannot remove the file of the script's output: {err}");
        }
    }
}

/// The files that scripts of earlier agents of `dir` left, and that somebody can print into still;
/// others are removed. What was printed meanwhile is not logged.
pub fn adopt(dir: &Path) -> Result<Vec<Output>> {
    let top = Dir::open(dir)?;
    let mut living = Vec::new();
    for item in top.list()? {
        if !item.name.to_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Some((file, len)) = own(&top, &item.name) else { continue };
        let output = Output::new(Dir::open(dir)?, item.name, file, len);
        if output.ended() {
            output.remove();
        } else {
            living.push(output);
        }
    }
    Ok(living)
}

/// The file `name`, if it is ours alone: whoever else may own the directory could have it be
/// another name of any file.
fn own(dir: &Dir, name: &CStr) -> Option<(File, u64)> {
    let file = dir.open_file_rw(name).ok()?;
    let meta = file.metadata().ok()?;
    let own = meta.uid() == rustix::process::geteuid().as_raw() && meta.nlink() == 1;
    own.then(|| (file, meta.len()))
}

fn new_name() -> CString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    CString::new(format!("{PREFIX}{}-{n}", std::process::id())).expect("it has no NUL")
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
    use std::fs;
    use std::io::Write as _;

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

    fn files(dir: &Path) -> Vec<u64> {
        fs::read_dir(dir).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).collect()
    }

    #[test]
    fn the_file_is_emptied_and_lives_as_long_as_somebody_can_print() {
        let temp = tempfile::tempdir().unwrap();
        let (mut output, mut writer) = Output::create(temp.path()).unwrap();
        let text = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            writer.write_all(&text).unwrap();
            output.read(MOST_BEHIND);
            output.empty(MOST_AFTER);
        }
        // All was seen, and little is left.
        assert!(files(temp.path())[0] <= 2 << 20, "{:?}", files(temp.path()));
        writer.write_all(b"end").unwrap();
        // Much at once: its end.
        for _ in 0..8 {
            writer.write_all(&text).unwrap();
        }
        writer.write_all(b"\nlast\n").unwrap();
        output.read(MOST_BEHIND);
        assert!(output.lines.kept.iter().copied().collect::<Vec<u8>>().ends_with(b"x\nlast\n"));
        // As `>/dev/stderr` does.
        let name = temp.path().join(&*output.name.to_string_lossy());
        fs::write(name, "anew\n").unwrap();
        output.read(MOST_BEHIND);
        assert!(output.lines.kept.iter().copied().collect::<Vec<u8>>().ends_with(b"last\nanew\n"));
        assert!(!output.ended());
        drop(output);
        // Another agent goes on with it, and removes it in the end.
        let mut living = adopt(temp.path()).unwrap();
        let mut output = living.pop().unwrap();
        writer.write_all(b"more\n").unwrap();
        output.read(MOST_BEHIND);
        assert_eq!(output.lines.kept.iter().copied().collect::<Vec<u8>>(), b"more\n");
        drop(writer);
        assert!(output.ended());
        drop(output);
        assert!(adopt(temp.path()).unwrap().is_empty());
        assert!(files(temp.path()).is_empty());
    }

    #[test]
    fn no_other_file_is_taken_for_a_scripts() {
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("kept");
        fs::write(&kept, "mine").unwrap();
        fs::hard_link(&kept, temp.path().join("script.out-1-1")).unwrap();
        std::os::unix::fs::symlink("kept", temp.path().join("script.out-1-2")).unwrap();
        assert!(adopt(temp.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "mine");
    }
}
