//! Measures the progress of long work. The thread that does the work updates the counts, and
//! another thread reads and shows the counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The unit that a stage of the work counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Items with this name, in the plural.
    Items(&'static str),
}

/// The progress of a stage at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The number of the stage. A new number shows that the next stage has begun.
    pub stage: u64,
    /// The past participle for the progress line, for example "uploaded".
    pub verb: &'static str,
    /// The counted unit.
    pub unit: Unit,
    /// The count so far.
    pub done: u64,
    /// The total, if it is known.
    pub whole: Option<u64>,
}

/// Counts the progress of successive stages of work. The methods that count take no lock.
#[derive(Debug, Default)]
pub struct Meter {
    stage: Mutex<Stage>,
    done: AtomicU64,
    whole: AtomicU64,
}

#[derive(Debug, Default)]
struct Stage {
    number: u64,
    /// `None` while there is no stage.
    counts: Option<(&'static str, Unit)>,
}

impl Meter {
    /// Begins a stage. `whole` is the total, or 0 if the total is not known.
    pub fn begin(&self, verb: &'static str, unit: Unit, whole: u64) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        stage.number += 1;
        stage.counts = Some((verb, unit));
        self.done.store(0, Ordering::Relaxed);
        self.whole.store(whole, Ordering::Relaxed);
    }

    /// Ends the stage. No progress is shown until the next stage begins.
    pub fn end(&self) {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).counts = None;
    }

    /// Adds `more` to the count.
    pub fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    /// Sets the count.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// Sets the total of a stage whose total was not known at its beginning.
    pub fn expect(&self, whole: u64) {
        self.whole.store(whole, Ordering::Relaxed);
    }

    /// The state of the current stage; `None` while there is no stage.
    pub fn reading(&self) -> Option<Reading> {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let (verb, unit) = stage.counts?;
        let done = self.done.load(Ordering::Relaxed);
        let whole = Some(self.whole.load(Ordering::Relaxed)).filter(|whole| *whole > 0);
        Some(Reading { stage: stage.number, verb, unit, done, whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_starts_at_zero() {
        let meter = Meter::default();
        meter.add(7);
        assert_eq!(meter.reading(), None);
        meter.begin("read", Unit::Bytes, 10);
        meter.add(3);
        meter.add(4);
        let read = Reading { stage: 1, verb: "read", unit: Unit::Bytes, done: 7, whole: Some(10) };
        assert_eq!(meter.reading(), Some(read));
        meter.end();
        assert_eq!(meter.reading(), None);
        meter.begin("removed", Unit::Items("files"), 0);
        let removed =
            Reading { stage: 2, verb: "removed", unit: Unit::Items("files"), done: 0, whole: None };
        assert_eq!(meter.reading(), Some(removed));
        meter.set(5);
        meter.expect(9);
        assert_eq!(meter.reading(), Some(Reading { done: 5, whole: Some(9), ..removed }));
    }
}
