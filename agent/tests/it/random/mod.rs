//! Makes random numbers from a seed that the test prints, and reads numbers from the environment.

/// A small generator of random numbers (xorshift64). Tests need a seed that they can print, but no
/// numbers of high quality.
pub struct Random(u64);

impl Random {
    /// Takes the seed from `DEPLOY_TEST_SEED`, or else from the clock, and prints the seed.
    #[allow(clippy::print_stdout, reason = "the seed of a failure")]
    pub fn start() -> Self {
        let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let clock = u64::try_from(clock & u128::from(u64::MAX)).unwrap();
        let seed = number("DEPLOY_TEST_SEED", clock | 1);
        println!("DEPLOY_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The number in the environment variable `name`, or `default` if the variable is not set.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
