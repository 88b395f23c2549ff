//! Makes random choices. Every step has dice of its own. Therefore, if one step is left out, the
//! other steps still make the same choices.

/// A small generator of random numbers (xorshift64*). A test needs a seed that the test can print,
/// but no numbers of high quality.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice for step `n` of a run with this seed.
    pub fn of(seed: u64, n: u64) -> Self {
        // The seed passes through splitmix64, so that neighbouring seeds give different numbers.
        let mut z = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(n.wrapping_mul(0xD1B5_4A32_D192_ED03));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`. The limit must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from((self.next() >> 16) % limit as u64).unwrap()
    }

    /// Returns true in `percent` of 100 cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One element of `all`; `None` if `all` is empty.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }

    /// Random lowercase letters.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| b'a' + u8::try_from(self.below(26)).unwrap()).collect()
    }
}
