//! Remembers whether the server of the bucket answers, and logs when this changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// Whether the server answers.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Away>>);

/// The server does not answer, or refuses requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// When the first request failed.
    pub since: Timestamp,
    /// Why the last request failed.
    pub why: String,
}

impl Health {
    /// Why the server does not answer. `None` if it answered the last request.
    pub(super) fn away(&self) -> Option<Away> {
        self.state().clone()
    }

    /// Records an answer.
    pub(super) fn answered(&self) {
        if self.state().take().is_some() {
            tracing::info!(event = "bucket_back", "the bucket answers again");
        }
    }

    /// Records a request that failed.
    pub(super) fn failed(&self, why: &str) {
        let mut state = self.state();
        if let Some(away) = state.as_mut() {
            why.clone_into(&mut away.why);
            return;
        }
        *state = Some(Away { since: Timestamp::now(), why: why.to_owned() });
        tracing::error!(
            event = "bucket_away",
            "{why}; uploads, and downloads of files that are not in the cache, fail until the \
             bucket answers again"
        );
    }

    fn state(&self) -> MutexGuard<'_, Option<Away>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_the_first_failure_is_kept_until_an_answer() {
        let health = Health::default();
        assert_eq!(health.away(), None);
        health.failed("one");
        let since = health.away().unwrap().since;
        health.failed("two");
        assert_eq!(health.away(), Some(Away { since, why: "two".to_owned() }));
        health.answered();
        assert_eq!(health.away(), None);
    }
}
