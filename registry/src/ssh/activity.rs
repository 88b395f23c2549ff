//! What a connection is doing: whether it is in the middle of something, and when
//! something last moved. Deadlines and the stop of the server ask this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a connection is doing.
#[derive(Debug)]
pub struct Activity {
    since: Instant,
    /// Milliseconds from `since` to the last movement.
    moved: AtomicU64,
    busy: AtomicUsize,
    working: AtomicUsize,
    /// A client that takes nothing for this long while something waits to be sent is gone.
    pub stall: Duration,
}

/// Something that is done here and waits for nothing of the client's; ends when dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a Activity);

/// Something under way, such as a command or an open upload; ends when dropped.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Activity {
    /// A connection that begins now.
    pub fn begin(stall: Duration) -> Arc<Self> {
        let (busy, working) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { since: Instant::now(), moved: AtomicU64::new(0), busy, working, stall })
    }

    /// How long the connection has been there.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Something moved.
    pub fn moved(&self) {
        let now = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// How long nothing has moved.
    pub fn quiet(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// Something begins that should not be cut off.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.moved();
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(self))
    }

    /// Work begins, which the deadline of the connection does not cut off.
    pub fn working(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::SeqCst);
        Working(self)
    }

    /// Whether there is work.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::SeqCst) > 0
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // Whoever waited has time to go on.
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
