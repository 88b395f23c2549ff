//! Whether anybody has a file open for writing.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Asks for another signal than SIGIO (`asm-generic/fcntl.h`, which `libc` leaves out).
const F_SETSIG: i32 = 10;

/// Who has a file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has it open for writing, or mapped so that writes reach it.
    None,
    /// Somebody has.
    Some,
    /// The system does not say: the filesystem has no leases, they are switched off
    /// (`fs.leases-enable`), or the file belongs to another user and we have no `CAP_LEASE`.
    Unknown,
}

/// Looks whether anybody has the file open for writing, by taking a read lease, which the
/// system refuses then (fcntl(2), `F_SETLEASE`), and giving it back at once. `file` must be
/// open for reading only. Whoever opens the file for writing in between waits for
/// microseconds.
pub fn writers(file: &File) -> Writers {
    // The system tells the holder of a lease that somebody wants to write: by SIGIO, which
    // would end the program, unless another signal is asked for. SIGURG is ignored.
    if set(file, F_SETSIG, libc::SIGURG).is_err() {
        return Writers::Unknown;
    }
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // It goes with the descriptor at the latest.
            let _ = set(file, libc::F_SETLEASE, libc::F_UNLCK);
            Writers::None
        }
        Err(libc::EAGAIN) => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

/// Sets the lease of an open file, or its signal; the error is the system's number.
#[expect(unsafe_code, reason = "no library has a safe call for leases; the only unsafe place")]
fn set(file: &File, what: i32, value: i32) -> Result<(), i32> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and F_SETLEASE and F_SETSIG
    // take an integer: no memory is shared with the system.
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
    fn who_writes_is_seen_and_who_reads_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(writers(&file), Writers::None);
        let reader = File::open(&path).unwrap();
        assert_eq!(writers(&file), Writers::None);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(writers(&file), Writers::Some);
        // Whatever becomes of its name.
        fs::remove_file(&path).unwrap();
        assert_eq!(writers(&file), Writers::Some);
        drop((writer, reader));
        assert_eq!(writers(&file), Writers::None);
        // The lease was given back: nobody has to wait for us.
        fs::write(&path, "new").unwrap();
    }

    #[test]
    fn opening_a_leased_file_for_writing_does_not_kill_the_holder() {
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
            // On a busy machine the two may miss each other for a while.
            let is_long = |time: Duration| time > Duration::from_secs(30);
            while begun.elapsed() < Duration::from_millis(500)
                || (seen.contains(&0) && !is_long(begun.elapsed()))
            {
                seen[usize::from(writers(&file) == Writers::Some)] += 1;
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(!seen.contains(&0), "{seen:?}: they never met");
    }
}
