//! Keeps the maintenance windows of groups in memory, because each watch checks whether its host
//! may switch to a new configuration now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deploy_rollout::{Windows, is_open, next_close, next_open};
use jiff::Timestamp;

/// The longest time that a watch sleeps before it checks the clock again. Somebody may set the
/// clock, so a longer sleep could miss the start or the end of a window.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// The windows of all groups that have windows.
#[derive(Debug, Default)]
pub struct Maintenance(RwLock<HashMap<String, Arc<Windows>>>);

impl Maintenance {
    /// Replaces the windows of all groups.
    pub fn set(&self, groups: HashMap<String, Windows>) {
        let groups = groups.into_iter().map(|(group, windows)| (group, Arc::new(windows)));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = groups.collect();
    }

    /// The windows of a group, if the group has windows.
    pub fn of(&self, group: &str) -> Option<Arc<Windows>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    /// Whether the group has windows, and all of them are closed at `now`. While this is true, the
    /// hosts of the group must not switch to a new configuration.
    pub fn is_closed(&self, group: &str, now: Timestamp) -> bool {
        self.of(group).is_some_and(|windows| !is_open(&windows, now))
    }

    /// The time to wait until the windows of a group may have opened or closed, at most
    /// [`LOOK_AT_CLOCK`]; `None` if the group has no windows.
    pub fn until_change(&self, group: &str, now: Timestamp) -> Option<Duration> {
        let windows = self.of(group)?;
        let next = if is_open(&windows, now) {
            next_close(&windows, now)
        } else {
            next_open(&windows, now)
        };
        let until = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        Some(until.unwrap_or(LOOK_AT_CLOCK).min(LOOK_AT_CLOCK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_with_closed_windows_are_closed() {
        let maintenance = Maintenance::default();
        let time = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (night, noon) = (time("2026-11-29T02:30:00Z"), time("2026-11-29T12:00:00Z"));
        maintenance.set([("db".to_owned(), "02:00-03:00 UTC".parse().unwrap())].into());
        assert!(!maintenance.is_closed("db", night) && maintenance.is_closed("db", noon));
        assert!(!maintenance.is_closed("web", noon) && !maintenance.is_closed("", noon));
        assert_eq!(maintenance.until_change("web", noon), None);
        assert_eq!(maintenance.until_change("db", noon), Some(LOOK_AT_CLOCK));
        let soon = time("2026-11-29T01:59:50Z");
        assert_eq!(maintenance.until_change("db", soon), Some(Duration::from_secs(10)));
    }
}
