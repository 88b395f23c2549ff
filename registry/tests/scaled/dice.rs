//! Makes random numbers from a seed.

use std::time::Duration;

/// A generator of random numbers (xorshift64*). The seed repeats all random choices of one task, but
/// not the order in which the tasks run.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides
    }

    /// A time shorter than `most` milliseconds.
    pub fn time(&mut self, most: usize) -> Duration {
        Duration::from_millis(self.throw(most) as u64)
    }
}
