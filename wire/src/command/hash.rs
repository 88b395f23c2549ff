//! Reads hashes as users write them: all digits of a hash, or only its first digits.

use std::fmt;
use std::str::FromStr;

use deploy_store::Digest;

/// Minimum number of digits of an abbreviated hash.
pub const MIN_DIGITS: usize = 8;
/// Number of digits of a complete hash.
const DIGITS: usize = 64;

/// A complete or abbreviated hash. It has at least the first [`MIN_DIGITS`] digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// The complete hash, if all digits were given.
    pub fn whole(&self) -> Option<Digest> {
        self.0.parse().ok()
    }

    /// Whether `digest` begins with these digits.
    pub fn is_of(&self, digest: Digest) -> bool {
        digest.to_string().starts_with(&self.0)
    }
}

impl From<Digest> for Hash {
    fn from(digest: Digest) -> Self {
        Self(digest.to_string())
    }
}

impl FromStr for Hash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let fits = (MIN_DIGITS..=DIGITS).contains(&text.len());
        if is_hex && fits { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_digits_abbreviate_a_hash() {
        let digest = Digest::of(b"x");
        let all = digest.to_string();
        for digits in [8, 12, 64] {
            let hash: Hash = all[..digits].parse().unwrap();
            assert!(hash.is_of(digest) && !hash.is_of(Digest::of(b"y")), "{hash}");
            assert_eq!(hash.whole(), (digits == 64).then_some(digest));
        }
        let upper = all.to_uppercase();
        for bad in [&all[..7], "", "0123456g", &format!("{all}0"), &upper] {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }
}
