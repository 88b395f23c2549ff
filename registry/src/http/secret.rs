//! Makes random secrets, as hexadecimal text.

use deploy_store::Digest;
use rustix::rand::{GetRandomFlags, getrandom};

/// A secret of 256 random bits. Only its owner and the registry know the secret.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new secret.
    pub fn new() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        // The digest of random bytes is as random as the bytes, and is printed as hexadecimal text.
        Ok(Self(Digest::of(&bytes).to_string()))
    }

    /// The secret as text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The digest of the secret. The registry keeps and compares digests, so the duration of a
    /// comparison reveals nothing about the secret.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// A second secret, derived from this secret and `text`. Without this secret, nobody can guess
    /// the second secret.
    pub fn derived(&self, text: &str) -> String {
        Digest::of(format!("{} {text}", self.0).as_bytes()).to_string()
    }
}
