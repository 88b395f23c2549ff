//! Receives the notices of other registries. If the connection was lost, or a notice is missing,
//! everything may have changed, so the listener wakes all tasks.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::change_notices::{self, Notice};
use super::database_error::no_server;
use super::sharing::Sharing;
use super::tx::query_as;
use super::{Result, single_statement};

/// How often the listener compares the number of the last notice with the number in the catalogue.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The pause before the listener connects again after an error.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of received notices that wait to be handled.
const WAITING: usize = 1000;

/// What the connection has received.
enum Received {
    Payload(String),
    /// The connection was lost and made again, so notices may be missing.
    Gap,
}

/// Starts the listener. When this function returns, the listener misses no notice.
pub(super) async fn begin(sharing: &Arc<Sharing>) -> Result<()> {
    let listener = connect(sharing).await.map_err(|err| no_server(&err))?;
    let seen = last_number(sharing).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(receive(Arc::downgrade(sharing), listener, sender));
    tokio::spawn(handle(Arc::downgrade(sharing), receiver, Seen::from(seen)));
    Ok(())
}

async fn connect(sharing: &Sharing) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(sharing.server.listeners()).await?;
    listener.listen(&sharing.channel).await?;
    Ok(listener)
}

/// Passes notifications on, and connects again whenever the connection is lost.
async fn receive(sharing: Weak<Sharing>, mut listener: PgListener, to: mpsc::Sender<Received>) {
    loop {
        let received = match listener.try_recv().await {
            Ok(Some(one)) => Received::Payload(one.payload().to_owned()),
            Ok(None) => Received::Gap,
            Err(_) => {
                let Some(again) = connect_again(&sharing).await else { return };
                listener = again;
                Received::Gap
            }
        };
        // The receiver ends with the catalogue.
        if to.send(received).await.is_err() {
            return;
        }
    }
}

async fn connect_again(sharing: &Weak<Sharing>) -> Option<PgListener> {
    loop {
        // The catalogue waits for the connection of the listener when it closes.
        let sharing = sharing.upgrade().filter(|sharing| !sharing.server.is_closed())?;
        if let Ok(listener) = connect(&sharing).await {
            return Some(listener);
        }
        drop(sharing);
        sleep(PAUSE).await;
    }
}

/// Handles notifications until the catalogue is closed.
async fn handle(sharing: Weak<Sharing>, mut from: mpsc::Receiver<Received>, mut seen: Seen) {
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let received = tokio::select! {
            received = from.recv() => received,
            _ = check.tick() => None,
        };
        let Some(sharing) = sharing.upgrade().filter(|sharing| !sharing.server.is_closed()) else {
            return;
        };
        let parsed = match &received {
            Some(Received::Payload(payload)) => change_notices::parse(payload),
            Some(Received::Gap) => None,
            None => {
                // If the server does not answer, the connection of the listener is lost, too.
                let Ok(number) = last_number(&sharing).await else { continue };
                if seen.is_behind(number) {
                    sharing.wake(Notice::of_everything());
                }
                continue;
            }
        };
        match parsed {
            Some((number, notice)) if seen.is_next(number) => {
                if notice.from != sharing.id {
                    sharing.wake(notice);
                }
            }
            Some(_) | None => sharing.wake(Notice::of_everything()),
        }
    }
}

/// The number of the last transaction with a notice.
async fn last_number(sharing: &Sharing) -> Result<i64> {
    let last = query_as("SELECT value FROM counters WHERE name = 'signal'");
    let (number,): (i64,) = single_statement::fetch_one(&sharing.server, last).await?;
    Ok(number)
}

/// The numbers of the notices that were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The last number.
    last: i64,
    /// The number in the catalogue at the last check.
    checked: i64,
}

impl Seen {
    fn from(last: i64) -> Self {
        Self { last, checked: last }
    }

    /// Records the number of a notice. Returns whether no notice is missing before it.
    fn is_next(&mut self, number: i64) -> bool {
        let is_next = number <= self.last + 1;
        self.last = self.last.max(number);
        is_next
    }

    /// Compares with the number in the catalogue. Returns whether notices are missing that were sent
    /// before the last check. Later notices may still be on their way.
    fn is_behind(&mut self, number: i64) -> bool {
        let is_behind = self.last < self.checked;
        self.last = self.last.max(self.checked);
        // An older number means that the database was restored from a backup.
        let is_restored = number < self.checked;
        if is_restored {
            self.last = number;
        }
        self.checked = number;
        is_behind || is_restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_notice_is_found_at_the_next_notice_or_the_second_check() {
        let mut seen = Seen::from(5);
        assert!(seen.is_next(6));
        assert!(!seen.is_next(8), "the notice 7 is missing");
        assert!(seen.is_next(9));
        assert!(!seen.is_behind(9));
        assert!(!seen.is_behind(11), "the notices 10 and 11 may be on their way");
        assert!(seen.is_behind(11));
        assert!(!seen.is_behind(11));
        assert!(seen.is_next(11), "a late notice only wakes its own tasks");
        assert!(seen.is_next(12));
    }

    #[test]
    fn restored_database_counts_as_a_gap() {
        let mut seen = Seen::from(5);
        assert!(seen.is_behind(3));
        assert!(!seen.is_behind(3));
        assert!(seen.is_next(4));
    }
}
