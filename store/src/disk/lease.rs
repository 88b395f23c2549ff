//! Finds out whether a process has a file open for writing.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// The fcntl(2) command that selects a signal other than SIGIO. `libc` lacks this constant of
/// `asm-generic/fcntl.h`.
const F_SETSIG: i32 = 10;

/// Whether a file has writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// No process has the file open for writing, and no process can write to the file through a
    /// mapping.
    None,
    /// At least one process has the file open or mapped for writing.
    Some,
    /// The answer is not known, for one of three reasons: the filesystem has no leases; leases are
    /// switched off (`fs.leases-enable`); or the file belongs to another user, and this process
    /// lacks `CAP_LEASE`.
    Unknown,
}

/// Finds out whether a process has the file open for writing. The function acquires a read lease
/// and releases it immediately. The system refuses the lease if there are writers (fcntl(2),
/// `F_SETLEASE`). `file` must be open for reading only. If another process opens the file for
/// writing during this check, the open is delayed by microseconds.
pub fn writers(file: &File) -> Writers {
    // If another process wants to write, the system sends a signal to the holder of the lease. The
    // default signal SIGIO would end the program. By default, the signal SIGURG is ignored.
    if set(file, F_SETSIG, libc::SIGURG).is_err() {
        return Writers::Unknown;
    }
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // If this call fails, the lease ends when the descriptor is closed.
            let _ = set(file, libc::F_SETLEASE, libc::F_UNLCK);
            Writers::None
        }
        Err(libc::EAGAIN) => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

/// Sets the lease of an open file, or the signal of the lease. On failure, returns the system's
/// error number.
#[expect(unsafe_code, reason = "no library has a safe call for leases; only this code is unsafe")]
fn set(file: &File, what: i32, value: i32) -> Result<(), i32> {
    // SAFETY: the descriptor stays open while `file` is borrowed. F_SETLEASE and F_SETSIG take an
    // integer, so no memory is shared with the system.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), what, value) };
    if done == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn lease_detects_writers_but_not_readers() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(writers(&file), Writers::None);
        let reader = File::open(&path).unwrap();
        assert_eq!(writers(&file), Writers::None);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(writers(&file), Writers::Some);
        // The answer does not depend on the file's name.
        fs::remove_file(&path).unwrap();
        assert_eq!(writers(&file), Writers::Some);
        drop((writer, reader));
        assert_eq!(writers(&file), Writers::None);
        // The lease was released, so no writer has to wait.
        fs::write(&path, "new").unwrap();
    }

    #[test]
    fn opening_a_leased_file_does_not_kill_the_holder() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = File::open(&path).unwrap();
        let begun = Instant::now();
        let is_over = AtomicBool::new(false);
        let mut seen = [0_u32; 2];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(OpenOptions::new().write(true).open(&path).unwrap());
                }
            });
            // On a busy machine, all checks in the first 500 ms may have the same result. The loop
            // then continues until the other result appears, for at most 30 seconds.
            let is_long = |time: Duration| time > Duration::from_secs(30);
            while begun.elapsed() < Duration::from_millis(500)
                || (seen.contains(&0) && !is_long(begun.elapsed()))
            {
                seen[usize::from(writers(&file) == Writers::Some)] += 1;
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(!seen.contains(&0), "{seen:?}: all checks had the same result");
    }
}
