//! Records the activity of a connection: whether work is active, and when data last moved.
//! Deadlines and the stop of the server depend on this record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The activity of a connection.
#[derive(Debug)]
pub struct Activity {
    since: Instant,
    /// Milliseconds from `since` to the last movement of data.
    moved: AtomicU64,
    busy: AtomicUsize,
    working: AtomicUsize,
    /// A client that accepts no data for this long, while data waits to be sent, counts as
    /// disconnected.
    pub stall: Duration,
}

/// Work that does not wait for the client. The work ends when the value is dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a Activity);

/// Active work, such as a command or an open upload. The work ends when the value is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Activity {
    /// The activity of a connection that begins now.
    pub fn begin(stall: Duration) -> Arc<Self> {
        let (busy, working) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { since: Instant::now(), moved: AtomicU64::new(0), busy, working, stall })
    }

    /// The age of the connection.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Records that data has moved.
    pub fn moved(&self) {
        let now = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// The time since data last moved.
    pub fn quiet(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// Begins active work. Before the server stops, it waits for such work.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.moved();
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(self))
    }

    /// Begins work that does not wait for the client. The deadline of the connection does not
    /// interrupt such work.
    pub fn working(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::SeqCst);
        Working(self)
    }

    /// Whether work that does not wait for the client is active.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::SeqCst) > 0
    }

    /// Whether any work is active.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // A client that waited for the work gets time to continue.
        self.0.moved();
        self.0.working.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.moved();
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
