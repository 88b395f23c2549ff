//! Keeps the future events of a simulation in the order of their times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use deploy_rollout::Standing;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent does a deed that follows from the offer with this number.
    Deed(i64, u32, Deed),
    /// An agent connects or disconnects. This event does not depend on offers.
    Connect(i64),
    Disconnect(i64),
    /// An agent connects again after a restart of the registry.
    Reconnect(i64),
    /// The driver checks the rollout. The number identifies the check. If the driver has scheduled
    /// a newer check, it ignores this event.
    Look(u64),
    /// A killed driver starts again.
    Revive,
    /// The registry stops for this time.
    Restart(u64),
    /// The registry runs again.
    Started,
    /// An operator gives a command or changes a host.
    Operator,
    /// A host joins.
    Join,
    /// The hold of a host ends (`Release`), or a host is not duplicate any more (`Single`).
    Release(i64),
    Single(i64),
}

/// An action of an agent after an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Report(Standing),
    Disconnect,
}

/// The future events.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    count: u64,
}

impl Queue {
    pub fn push(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count)));
        self.events.insert(self.count, event);
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at, number)) = self.heap.pop()?;
        Some((at, self.events.remove(&number).unwrap()))
    }
}
