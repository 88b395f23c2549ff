//! Computes how long the agent waits. The wait between polls has jitter. The wait after failures
//! grows exponentially.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Waits that start at `first`, double with each failure, and never exceed `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The maximum wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row. The full wait doubles with each failure,
    /// up to `cap`. The result is between half of the full wait (`fraction` 0) and the full wait
    /// (`fraction` 1). With a random `fraction`, the agents of a fleet do not all retry at the same
    /// time.
    pub fn delay(&self, failures: u32, fraction: f64) -> Duration {
        let doubled = 2_u32.checked_pow(failures.saturating_sub(1));
        let whole = doubled.and_then(|factor| self.first.checked_mul(factor));
        let whole = whole.map_or(self.cap, |whole| whole.min(self.cap));
        whole.mul_f64(0.5 + fraction.clamp(0.0, 1.0) / 2.0)
    }
}

/// The wait after a poll that did not fail: `poll` plus up to an eighth of `poll`.
pub fn jittered(poll: Duration, fraction: f64) -> Duration {
    poll.mul_f64(1.0 + fraction.clamp(0.0, 1.0) / 8.0)
}

/// A random number from 0 to 1. The number comes from the random hash keys of the standard library,
/// which are random enough to spread the load.
pub fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn wait_doubles_up_to_the_cap_and_never_overflows() {
        let backoff = Backoff { first: SECOND, cap: 60 * SECOND };
        let delays: Vec<u64> = (1..=8).map(|n| backoff.delay(n, 1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(u32::MAX, 1.0), 60 * SECOND);
        assert_eq!(Backoff { cap: Duration::MAX, ..backoff }.delay(32, 1.0).as_secs(), 1 << 31);
    }

    #[test]
    fn backoff_keeps_at_least_half_and_poll_pause_grows_by_at_most_an_eighth() {
        let backoff = Backoff { first: SECOND, cap: 60 * SECOND };
        assert_eq!(backoff.delay(2, 0.0), SECOND);
        assert_eq!(jittered(8 * SECOND, 0.0), 8 * SECOND);
        assert_eq!(jittered(8 * SECOND, 1.0), 9 * SECOND);
        assert_eq!(jittered(8 * SECOND, 7.0), 9 * SECOND);
    }

    #[test]
    fn random_fractions_differ_and_stay_in_range() {
        let some: Vec<f64> = (0..32).map(|_| random_fraction()).collect();
        assert!(some.iter().all(|fraction| (0.0..=1.0).contains(fraction)));
        assert!(some.windows(2).any(|pair| pair[0].to_bits() != pair[1].to_bits()));
    }
}
