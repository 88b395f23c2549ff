//! Decides what happens to an object in a bucket. These functions are pure.
//!
//! ```text
//! writing -> staged -> live -> condemned -> deleting -> (no row)
//!    |         |                  |  ^
//!    |         +------------------|--+   the upload expired
//!    +-> deleting  (given up)     +-> live, staged   a new reference, or a new upload
//! ```
//!
//! Each step is one transaction. All transactions that change references or states wait for each
//! other, so a step sees all references. No object leaves the state `deleting`, so nothing can
//! refer to an object that is about to be deleted.

use std::time::Duration;

/// The state of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectState {
    /// A registry is writing the object, or has stopped writing it.
    Writing,
    /// The object is complete, and waits to be bound.
    Staged,
    /// A version or a kept state may refer to the object.
    Live,
    /// Nothing needs the object.
    Condemned,
    /// The object may be deleted at any time.
    Deleting,
    /// The object does not have the right bytes, or does not exist.
    Damaged,
}

impl ObjectState {
    pub(super) const ALL: [Self; 6] =
        [Self::Writing, Self::Staged, Self::Live, Self::Condemned, Self::Deleting, Self::Damaged];

    /// The word for the state, as in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Staged => "staged",
            Self::Live => "live",
            Self::Condemned => "condemned",
            Self::Deleting => "deleting",
            Self::Damaged => "damaged",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What is known about an object when gc decides.
#[derive(Debug, Clone, Copy)]
pub struct ObjectFacts {
    /// The present state.
    pub state: ObjectState,
    /// The time since the object got this state, or was last uploaded or bound.
    pub age: Duration,
    /// Whether a version or a kept state refers to the blob.
    pub is_referenced: bool,
    /// Whether another object with the same bytes is live.
    pub has_twin: bool,
    /// Whether the registry that writes the object may still be writing it.
    pub is_being_written: bool,
}

/// How long objects stay in a state.
#[derive(Debug, Clone, Copy)]
pub struct ObjectTimes {
    /// How long a staged object waits to be bound.
    pub grace: Duration,
    /// How long a condemned object is kept.
    pub linger: Duration,
    /// After this time without a heartbeat of the registry that writes an object, the object is given
    /// up.
    pub abandon: Duration,
}

/// Whether the registry that writes an object may still be writing it. `silence` is the time since
/// the last heartbeat of another registry that shares the catalogue, or since the object began.
/// `None`: the catalogue is not shared, so no other registry runs.
pub(super) fn is_being_written(is_own: bool, silence: Option<Duration>, abandon: Duration) -> bool {
    is_own || silence.is_some_and(|silence| silence < abandon)
}

/// The state that an object gets next. `None`: the object stays as it is. The states of live objects
/// are not decided here: see [`super::Catalog::condemn_objects`].
pub fn next_state(facts: ObjectFacts, times: ObjectTimes) -> Option<ObjectState> {
    let ObjectFacts { state, age, is_referenced, has_twin, is_being_written } = facts;
    match state {
        ObjectState::Live | ObjectState::Deleting => None,
        ObjectState::Writing if is_being_written => None,
        ObjectState::Writing => Some(ObjectState::Deleting),
        ObjectState::Staged => (age >= times.grace).then_some(ObjectState::Condemned),
        ObjectState::Condemned if is_referenced && !has_twin => Some(ObjectState::Live),
        // A damaged object is kept until the blob is uploaded again, or is no longer needed.
        ObjectState::Damaged if is_referenced && !has_twin => None,
        ObjectState::Condemned | ObjectState::Damaged => {
            (age >= times.linger).then_some(ObjectState::Deleting)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ObjectState::{Condemned, Damaged, Deleting, Live, Staged, Writing};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const TIMES: ObjectTimes =
        ObjectTimes { grace: HOUR, linger: Duration::from_secs(7200), abandon: HOUR };

    fn facts(state: ObjectState, hours: u32) -> ObjectFacts {
        let age = HOUR * hours;
        ObjectFacts { state, age, is_referenced: false, has_twin: false, is_being_written: false }
    }

    fn next(facts: ObjectFacts) -> Option<ObjectState> {
        next_state(facts, TIMES)
    }

    #[test]
    fn object_without_references_is_deleted_step_by_step() {
        assert_eq!(next(facts(Staged, 0)), None);
        assert_eq!(next(facts(Staged, 1)), Some(Condemned));
        assert_eq!(next(facts(Condemned, 1)), None);
        assert_eq!(next(facts(Condemned, 2)), Some(Deleting));
        assert_eq!(next(facts(Deleting, 99)), None);
    }

    #[test]
    fn object_of_another_registry_is_abandoned_after_an_hour_without_a_heartbeat() {
        let soon = HOUR - Duration::from_secs(1);
        assert!(is_being_written(true, None, HOUR) && is_being_written(true, Some(HOUR), HOUR));
        assert!(is_being_written(false, Some(soon), HOUR));
        assert!(!is_being_written(false, Some(HOUR), HOUR));
        assert!(!is_being_written(false, None, HOUR));
    }

    #[test]
    fn only_an_abandoned_object_is_given_up() {
        let written = ObjectFacts { is_being_written: true, ..facts(Writing, 99) };
        assert_eq!(next(written), None);
        assert_eq!(next(facts(Writing, 0)), Some(Deleting));
    }

    #[test]
    fn no_object_that_something_needs_is_ever_deleted() {
        for state in ObjectState::ALL {
            for hours in [0, 1, 2, 99] {
                let needed = ObjectFacts { is_referenced: true, ..facts(state, hours) };
                let next = next(needed);
                // An object that is being written is nobody's only copy: no version can refer to
                // it.
                assert!(state == Writing || next != Some(Deleting), "{state:?} {hours}");
            }
        }
        let needed = ObjectFacts { is_referenced: true, ..facts(Condemned, 99) };
        assert_eq!(next(needed), Some(Live));
        let twin = ObjectFacts { has_twin: true, ..needed };
        assert_eq!(next(twin), Some(Deleting));
    }

    #[test]
    fn damaged_object_is_kept_until_the_blob_is_whole_again() {
        let needed = ObjectFacts { is_referenced: true, ..facts(Damaged, 99) };
        assert_eq!(next(needed), None);
        assert_eq!(next(ObjectFacts { has_twin: true, ..needed }), Some(Deleting));
        assert_eq!(next(facts(Damaged, 99)), Some(Deleting));
        assert_eq!(next(facts(Damaged, 1)), None);
    }

    #[test]
    fn object_never_leaves_deleting_and_state_words_are_unique() {
        for state in ObjectState::ALL {
            assert_eq!(ObjectState::parse(state.as_str()), Some(state));
        }
        let needed = ObjectFacts { is_referenced: true, ..facts(Deleting, 0) };
        assert_eq!(next(needed), None);
    }
}
