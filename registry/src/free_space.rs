//! Keeps samples of the free disk space of the last day.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// The time from one sample to the next.
pub const EVERY: Duration = Duration::from_secs(5 * 60);
/// Maximum number of samples that the registry keeps: the samples of one day.
const MOST: usize = 288;

/// A time, and the number of bytes that were free on the disk at this time.
pub type Sample = (Timestamp, u64);

/// The samples of the last day, oldest first. Samples from before the start of the registry are
/// lost.
#[derive(Debug, Default)]
pub struct FreeSpace(Mutex<VecDeque<Sample>>);

impl FreeSpace {
    /// Adds a sample. If there would be too many samples, removes the oldest sample.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == MOST {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_samples_of_one_day_stay() {
        let space = FreeSpace::default();
        for second in 0..300 {
            space.add((Timestamp::from_second(second).unwrap(), second.unsigned_abs()));
        }
        let samples = space.samples();
        assert_eq!((samples.len(), samples[0].1, samples[287].1), (288, 12, 299));
    }
}
