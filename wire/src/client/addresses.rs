//! Reads the addresses of several registries that share a catalogue, and chooses a random first
//! address.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::error::ClientError;

/// Maximum time for the TCP connection to one of several registries. After this time, the client
/// tries the next registry.
pub(super) const TRY: Duration = Duration::from_secs(2);

/// Splits `text` at the commas, and returns the addresses.
pub(super) fn split(text: &str) -> Vec<String> {
    text.split(',').map(|addr| addr.trim().to_owned()).filter(|addr| !addr.is_empty()).collect()
}

/// The addresses in `text`, rotated by a random number of places. The client tries the addresses
/// from the last to the first. The random rotation spreads the clients over all registries.
pub(super) fn shuffled(text: &str) -> Vec<String> {
    let mut addresses = split(text);
    let count = addresses.len();
    if count > 1 {
        // Each `RandomState` has random keys, so its hash serves as a random number.
        let random = usize::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0);
        addresses.rotate_left(random % count);
    }
    addresses
}

/// Whether another registry may accept the client after this error. All registries of a catalogue
/// have the same host key and accept the same client keys, so they all refuse the same logins.
pub(super) fn may_help(err: &ClientError) -> bool {
    !matches!(
        err,
        ClientError::HostKeyMismatch { .. }
            | ClientError::HostUnknown { .. }
            | ClientError::Denied { .. }
            | ClientError::KeyFile { .. }
            | ClientError::Setup(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_addresses_is_split() {
        assert_eq!(split("a:1"), ["a:1"]);
        assert_eq!(split("a:1, b:2,,c:3"), ["a:1", "b:2", "c:3"]);
        assert!(split("").is_empty());
    }

    #[test]
    fn clients_begin_at_different_addresses() {
        let firsts: std::collections::HashSet<String> =
            (0..200).map(|_| shuffled("a:1,b:2,c:3").swap_remove(0)).collect();
        assert_eq!(firsts.len(), 3);
        let mut all = shuffled("a:1,b:2,c:3");
        all.sort();
        assert_eq!(all, ["a:1", "b:2", "c:3"]);
    }
}
