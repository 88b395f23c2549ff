//! Defines a memory limit that several threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The minimum number of bytes that a thread takes from the budget at a time, unless fewer bytes
/// are left. Because of this minimum, threads seldom contend for the budget.
const STEP: usize = 64 << 10;

/// A number of bytes of memory that all threads together may use.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
    /// The total number of bytes in the budget.
    pub whole: usize,
}

/// The bytes of the budget that one thread has taken. Dropping the value returns the bytes.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    taken: usize,
}

impl Budget {
    /// A budget of `whole` bytes.
    pub fn new(whole: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(whole)), whole }
    }

    /// An empty share.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), taken: 0 }
    }
}

impl Share {
    /// Grows the share to `bytes` bytes. Returns whether the budget had enough bytes.
    pub fn reach(&mut self, bytes: usize) -> bool {
        let Some(missing) = bytes.checked_sub(self.taken).filter(|missing| *missing > 0) else {
            return true;
        };
        let takes = |left: usize| left.min(missing.max(STEP));
        let enough = |left: usize| (left >= missing).then(|| left - takes(left));
        let left = &self.budget.left;
        let Ok(before) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough) else {
            return false;
        };
        self.taken += takes(before);
        true
    }

    /// Shrinks the share to `bytes` bytes, and returns the rest to the budget.
    pub fn shrink(&mut self, bytes: usize) {
        let more = self.taken.saturating_sub(bytes);
        self.taken -= more;
        self.budget.left.fetch_add(more, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_share_returns_to_the_budget() {
        let budget = Budget::new(100_000);
        let (mut one, mut two) = (budget.share(), budget.share());
        assert!(one.reach(1) && one.reach(60_000));
        assert!(two.reach(30_000) && !two.reach(60_000) && !one.reach(70_001));
        two.shrink(20_000);
        assert!(one.reach(80_000) && !one.reach(80_001));
        drop(one);
        assert!(two.reach(100_000) && !two.reach(100_001));
        drop(two);
        assert!(budget.share().reach(100_000));
    }
}
