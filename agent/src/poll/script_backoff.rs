//! Decides when a failed script runs again. While the registry's configuration stays the same, the
//! wait grows with each failure.

use std::time::{Duration, Instant};

use deploy_store::Configuration;

use crate::backoff::{Backoff, random_fraction};
use crate::cycle::Change;

/// Longest wait before a failed script runs again. If `-poll` is longer, `-poll` applies.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// A configuration whose script failed, and the time at which the script runs again.
#[derive(Debug, Clone)]
pub(super) struct ScriptBackoff {
    target: Configuration,
    failures: u32,
    until: Instant,
    /// Why the script failed.
    cause: String,
}

impl ScriptBackoff {
    /// The wait after the script failed for `target`. Each further failure makes the wait longer.
    /// If `before` belongs to another configuration, the count of failures begins again.
    pub(super) fn after(
        before: Option<Self>,
        target: Configuration,
        poll: Duration,
        cause: String,
    ) -> Self {
        let is_same = |it: &Self| Change::between(Some(&it.target), &target) == Change::None;
        let failures = before.filter(is_same).map_or(0, |before| before.failures) + 1;
        let backoff = Backoff { first: 2 * poll, cap: LONGEST_WAIT.max(poll) };
        let until = Instant::now() + backoff.delay(failures, random_fraction());
        Self { target, failures, until, cause }
    }

    /// The configuration whose script failed.
    pub(super) fn target(&self) -> &Configuration {
        &self.target
    }

    /// Whether it is too early to run the script again.
    pub(super) fn is_waiting(&self) -> bool {
        self.until > Instant::now()
    }

    /// The time until the script runs again.
    pub(super) fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Ends the wait, because somebody asked for a poll and may have repaired the script.
    pub(super) fn mark_rerun(&mut self) {
        self.until = Instant::now();
    }

    /// Why the script does not run now.
    pub(super) fn reason(&self) -> String {
        format!("{}; the next run is in {:.0?}", self.cause, self.remaining())
    }

    /// The message after a failure of the script, which runs again after `wait`.
    pub(super) fn failure(&self, wait: Duration) -> String {
        format!("{}; the next run is in {wait:.0?}, or earlier for a new configuration", self.cause)
    }
}
