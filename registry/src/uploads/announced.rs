//! Bytes of uploads that their clients have announced and not sent yet: room that is promised.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all uploads under way have still to bring, as far as that is known.
#[derive(Debug, Default)]
pub struct Announced {
    bytes: Mutex<u64>,
}

/// What one upload has still to bring; given back when dropped.
#[derive(Debug)]
pub struct Share {
    all: Arc<Announced>,
    /// Bytes of the whole upload.
    size: u64,
    left: u64,
}

impl Announced {
    /// An upload of `size` bytes begins, unless `fits`, which is told what others have still to
    /// bring, says why not. One whose size is not known has 0.
    pub fn begin<E>(
        self: &Arc<Self>,
        size: u64,
        fits: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<Share, E> {
        let mut bytes = self.lock();
        fits(*bytes)?;
        *bytes = bytes.saturating_add(size);
        Ok(Share { all: Arc::clone(self), size, left: size })
    }

    /// What all have still to bring.
    pub fn bytes(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Whether anything was announced.
    pub fn is_known(&self) -> bool {
        self.size > 0
    }

    /// The upload has so many bytes by now.
    pub fn came(&mut self, bytes: u64) {
        let left = self.size.saturating_sub(bytes).min(self.left);
        let mut all = self.all.lock();
        *all = all.saturating_sub(self.left - left);
        self.left = left;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.came(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_counts_until_it_has_come_or_comes_no_more() {
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
        // More than it said.
        one.came(1000);
        one.came(1001);
        assert_eq!(all.bytes(), 50);
        drop(one);
        let unknown = begin(0, 50).unwrap();
        drop((two, unknown));
        assert_eq!(all.bytes(), 0);
    }
}
