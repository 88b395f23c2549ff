//! Puts the rules of a rollout into words.

use std::time::Duration;

use deploy_rollout::Policy;
use jiff::SignedDuration;

/// The waves, the soak and the limit of failed hosts.
pub fn in_words(policy: &Policy) -> String {
    let Policy { waves, soak, max_failed, .. } = policy;
    format!("waves {waves}, soak {}, max-failed {max_failed}", duration(*soak))
}

/// A duration in the format of the flags, such as `10m`.
fn duration(time: Duration) -> String {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    format!("{time:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_described_in_words() {
        let policy = Policy { soak: Duration::from_secs(90), ..Policy::default() };
        assert_eq!(in_words(&policy), "waves 100%, soak 1m 30s, max-failed 1 or 2%");
    }
}
