//! Finds out whether the registry that writes an object still runs.

use std::collections::HashMap;
use std::time::Duration;

use super::object_rows::ObjectRow;
use super::object_state::is_being_written;
use super::registry_rows::heartbeats;
use super::tx::Tx;
use super::{Catalog, Result, nanoseconds};

/// The registries that may write objects, at the time `now`.
pub(super) struct Writers<'a> {
    own: &'a str,
    /// The last heartbeats of the registries that share the catalogue; `None` if it is not shared.
    others: Option<HashMap<String, i64>>,
    pub(super) now: i64,
}

impl Writers<'_> {
    /// The time since `time`.
    pub(super) fn time_since(&self, time: i64) -> Duration {
        Duration::from_nanos(u64::try_from(self.now.saturating_sub(time)).unwrap_or(0))
    }

    /// Whether the registry that writes the object may still be writing it.
    pub(super) fn may_write(&self, row: &ObjectRow, abandon: Duration) -> bool {
        // The row of a registry may be missing.
        let last = |others: &HashMap<String, i64>| {
            let began = nanoseconds(row.since);
            others.get(&row.registry).map_or(began, |heartbeat| began.max(*heartbeat))
        };
        let silence = self.others.as_ref().map(|others| self.time_since(last(others)));
        is_being_written(row.registry == self.own, silence, abandon)
    }
}

impl Catalog {
    /// The registries that may write objects now.
    pub(super) async fn writers(&self, transaction: &mut Tx) -> Result<Writers<'_>> {
        let others = if self.is_shared() { Some(heartbeats(transaction).await?) } else { None };
        Ok(Writers { own: self.session_id(), others, now: transaction.now().await? })
    }
}
