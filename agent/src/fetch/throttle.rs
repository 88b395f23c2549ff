//! Implements `-limit-download`, which limits the total rate of all downloads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum time for which the unused part of the limit accumulates. After a pause, downloads may
/// exceed the limit by the number of bytes that the limit allows in this time.
const BURST: Duration = Duration::from_secs(1);

/// The limit for the rate of downloads. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// Maximum number of downloaded bytes per second; 0 for no limit.
    rate: u64,
    /// Time at which the limit will allow all bytes that were received so far. Until that time,
    /// each download waits before it receives more bytes.
    paid: Arc<Mutex<Instant>>,
}

impl Throttle {
    /// A limit of `rate` bytes per second; 0 for no limit.
    pub fn new(rate: u64) -> Self {
        Self { rate, paid: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Counts `bytes` received bytes, and waits until the limit allows these bytes. The wait blocks
    /// the thread. During the wait, the agent does not acknowledge received data, so the registry
    /// sends more slowly.
    pub fn take(&self, bytes: usize) {
        let wait = self.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::task::block_in_place(|| std::thread::sleep(wait));
        }
    }

    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        // A float is exact enough for the size of one packet.
        #[allow(clippy::cast_precision_loss)]
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.checked_sub(BURST).unwrap_or(now);
        *paid = (*paid).max(from) + cost;
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_rate() {
        let one = Throttle::new(1000);
        let other = one.clone();
        let start = *one.paid.lock().unwrap();
        assert_eq!(one.reserve(500, start), Duration::from_millis(500));
        assert_eq!(other.reserve(500, start), Duration::from_secs(1));
        let later = start + Duration::from_secs(60);
        assert_eq!(one.reserve(1500, later), Duration::from_millis(500));
    }

    #[test]
    fn without_a_limit_no_download_waits() {
        let free = Throttle::new(0);
        assert_eq!(free.reserve(usize::MAX, Instant::now()), Duration::ZERO);
    }
}
