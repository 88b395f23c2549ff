//! Injects faults into disk operations for tests. The n-th disk operation of this process fails.
//! With the fault `Dead`, all later operations fail, too. Without the feature `faults`, there are
//! no faults, and [`step`] does nothing.

#[cfg(not(feature = "faults"))]
mod off {
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::os::unix::fs::FileExt as _;

    use rustix::io::Errno;

    /// Marks the start of a disk operation.
    #[expect(clippy::inline_always, reason = "the function does nothing")]
    #[inline(always)]
    pub fn step() -> Result<(), Errno> {
        Ok(())
    }

    /// Writes all of `bytes` at the current position of `file`.
    pub fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
}

#[cfg(feature = "faults")]
mod on {
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::os::unix::fs::FileExt as _;
    use std::sync::{Mutex, PoisonError};

    use rustix::io::Errno;

    /// The kinds of faults.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// The operation fails as on a broken disk.
        Broken,
        /// The operation fails as on a full disk.
        Full,
        /// A write stores half of its bytes, and then fails because the disk is full. Any other
        /// operation fails immediately.
        Short,
        /// This operation and every later operation fail, as if the process had been killed.
        Dead,
        /// The operation panics, as if the program had a bug.
        Panic,
    }

    struct Armed {
        fault: Fault,
        /// The number of operations until the fault.
        left: u64,
        happened: bool,
    }

    static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

    /// Makes `fault` happen at the n-th disk operation of the process after this call. The next
    /// operation has the number 1.
    pub fn arm(n: u64, fault: Fault) {
        let armed = Armed { fault, left: n, happened: false };
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
    }

    /// Disarms the armed fault. Returns whether the fault happened.
    pub fn disarm() -> bool {
        let armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner).take();
        armed.is_some_and(|armed| armed.happened)
    }

    fn next() -> Option<Fault> {
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = armed.as_mut()?;
        armed.left = armed.left.saturating_sub(1);
        let now = armed.left == 0 && (!armed.happened || armed.fault == Fault::Dead);
        armed.happened |= now;
        let fault = now.then_some(armed.fault);
        assert!(fault != Some(Fault::Panic), "an injected panic at a disk operation");
        fault
    }

    /// Marks the start of a disk operation. Fails or panics if a fault is due.
    pub fn step() -> Result<(), Errno> {
        match next() {
            None => Ok(()),
            Some(Fault::Broken | Fault::Dead | Fault::Panic) => Err(Errno::IO),
            Some(Fault::Full | Fault::Short) => Err(Errno::NOSPC),
        }
    }

    /// Writes all of `bytes` at the current position of `file`.
    pub fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
        let part = part(bytes);
        file.write_all(part?)?;
        if part?.len() == bytes.len() { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let part = part(bytes);
        file.write_all_at(part?, offset)?;
        if part?.len() == bytes.len() { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    /// The part of `bytes` that is written before a fault.
    fn part(bytes: &[u8]) -> Result<&[u8], Errno> {
        match next() {
            None => Ok(bytes),
            Some(Fault::Short) => Ok(&bytes[..bytes.len() / 2]),
            Some(Fault::Full) => Err(Errno::NOSPC),
            Some(Fault::Broken | Fault::Dead | Fault::Panic) => Err(Errno::IO),
        }
    }
}

#[cfg(not(feature = "faults"))]
pub use off::{step, write_all, write_all_at};
#[cfg(feature = "faults")]
pub use on::{Fault, arm, disarm, step, write_all, write_all_at};
