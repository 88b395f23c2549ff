//! Counts the bytes that clients have announced but not sent yet. The registry keeps this much
//! space free on the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The announced bytes of all open uploads.
#[derive(Debug, Default)]
pub struct Announced {
    bytes: Mutex<u64>,
}

/// The announced bytes of one upload. Dropping the value releases the bytes.
#[derive(Debug)]
pub struct AnnouncedShare {
    all: Arc<Announced>,
    /// The size of the whole upload, in bytes; 0 if unknown.
    size: u64,
    left: u64,
}

impl Announced {
    /// Reserves `size` bytes for an upload, if `fits` succeeds. `size` is 0 if the size is unknown.
    /// `fits` gets the number of announced bytes that other uploads have yet to receive.
    pub fn begin<E>(
        self: &Arc<Self>,
        size: u64,
        fits: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<AnnouncedShare, E> {
        let mut bytes = self.lock();
        fits(*bytes)?;
        *bytes = bytes.saturating_add(size);
        Ok(AnnouncedShare { all: Arc::clone(self), size, left: size })
    }

    /// The number of announced bytes that all open uploads have yet to receive.
    pub fn bytes(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnnouncedShare {
    /// Whether the client announced a size.
    pub fn is_known(&self) -> bool {
        self.size > 0
    }

    /// Records that `bytes` bytes of the upload have arrived in total.
    pub fn came(&mut self, bytes: u64) {
        let left = self.size.saturating_sub(bytes).min(self.left);
        let mut all = self.all.lock();
        *all = all.saturating_sub(self.left - left);
        self.left = left;
    }
}

impl Drop for AnnouncedShare {
    fn drop(&mut self) {
        self.came(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_bytes_count_until_they_arrive_or_the_upload_ends() {
        let all = Arc::<Announced>::default();
        let begin = |size: u64, others: u64| {
            let fits = |bytes| if bytes == others { Ok(()) } else { Err(bytes) };
            all.begin(size, fits)
        };
        let mut one = begin(100, 0).unwrap();
        let two = begin(50, 100).unwrap();
        assert_eq!(begin(7, 0).unwrap_err(), 150);
        one.came(30);
        assert_eq!(all.bytes(), 120);
        // The client sends more than it announced.
        one.came(1000);
        one.came(1001);
        assert_eq!(all.bytes(), 50);
        drop(one);
        let unknown = begin(0, 50).unwrap();
        drop((two, unknown));
        assert_eq!(all.bytes(), 0);
    }
}
