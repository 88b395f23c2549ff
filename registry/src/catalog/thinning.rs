//! Removes rows, a few at a time, from tables that would otherwise only grow: the rows of the
//! histories of deleted configurations and, with `-keep-history`, old states and old entries of the
//! audit trail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::counters::count;
use super::tx::{Tx, query, query_as, query_scalar};
use super::{Catalog, Result, nanoseconds, uses};

/// Maximum number of states that one transaction removes. With this limit, other writers wait only
/// for milliseconds.
const STATES: i64 = 50;
/// Maximum number of audit entries that one transaction removes.
const ENTRIES: i64 = 250;
/// The longest pause after a transaction.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The number of rows that are removed because of their age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Thinned {
    /// The number of states of configurations.
    pub states: u64,
    /// The number of entries of the audit trail.
    pub audit: u64,
}

impl Catalog {
    /// Removes the remaining rows of the histories of deleted configurations.
    pub async fn remove_histories(&self) -> Result<()> {
        let removed: Vec<i64> = query_scalar("SELECT history FROM removed_histories")
            .fetch_all(&mut self.read_tx().await?)
            .await?;
        for history in removed {
            while self.remove_states(history, i64::MAX, false).await? > 0 {}
            let done = query("DELETE FROM removed_histories WHERE history = $1").bind(history);
            self.write_one(done).await?;
        }
        Ok(())
    }

    /// How many states and entries of the audit trail [`Catalog::thin`] would remove.
    pub async fn would_thin(&self, before: Timestamp) -> Result<Thinned> {
        let mut thinned = Thinned::default();
        for (history, floor) in self.thinnable(before).await? {
            let states: i64 =
                query_scalar("SELECT COUNT(*) FROM states WHERE history = $1 AND number < $2")
                    .bind(history)
                    .bind(floor)
                    .fetch_one(&mut self.scan_tx().await?)
                    .await?;
            thinned.states += states.cast_unsigned();
        }
        let audit: i64 = query_scalar("SELECT COUNT(*) FROM audit WHERE time < $1")
            .bind(nanoseconds(before))
            .fetch_one(&mut self.scan_tx().await?)
            .await?;
        thinned.audit = audit.cast_unsigned();
        Ok(thinned)
    }

    /// Removes the states and the entries of the audit trail that are older than `before`. The
    /// function keeps the states in the table `uses`: for example, the current state and the
    /// rollback targets. If a kept state is a rollback, the function also keeps the restored state.
    /// It also keeps all states that are newer than the oldest kept state.
    pub async fn thin(&self, before: Timestamp) -> Result<Thinned> {
        let mut thinned = Thinned::default();
        for (history, floor) in self.thinnable(before).await? {
            loop {
                let removed = self.remove_states(history, floor, true).await?;
                thinned.states += removed;
                if removed == 0 {
                    break;
                }
            }
        }
        loop {
            let some = query(
                "DELETE FROM audit WHERE number IN \
                 (SELECT number FROM audit WHERE time < $1 ORDER BY time LIMIT $2)",
            );
            let some = some.bind(nanoseconds(before)).bind(ENTRIES);
            let began = Instant::now();
            let removed = self.write_one(some).await?;
            pause(began).await;
            thinned.audit += removed;
            if removed == 0 {
                return Ok(thinned);
            }
        }
    }

    /// The histories with removable states. For each history, the result has the number of the
    /// oldest state that stays.
    async fn thinnable(&self, before: Timestamp) -> Result<Vec<(i64, i64)>> {
        let mut transaction = self.scan_tx().await?;
        // The oldest state of each history shows whether any state is old enough.
        let histories: Vec<(i64, i64)> = query_as(
            "SELECT c.history, s.number FROM configurations c JOIN states s \
             ON s.history = c.history \
             AND s.number = (SELECT MIN(number) FROM states o WHERE o.history = c.history) \
             WHERE s.modified < $1 AND s.number < c.current",
        )
        .bind(nanoseconds(before))
        .fetch_all(&mut transaction)
        .await?;
        let mut thinnable = Vec::new();
        for (history, oldest) in histories {
            let floor = floor(&mut transaction, history, before).await?;
            if floor > oldest {
                thinnable.push((history, floor));
            }
        }
        Ok(thinnable)
    }

    /// Removes the oldest states of a history with numbers below `floor`, [`STATES`] at most.
    /// Returns the number of removed states. `counted` says whether the counter of states includes
    /// these states. The counter includes them if their configuration still exists.
    async fn remove_states(&self, history: i64, floor: i64, counted: bool) -> Result<u64> {
        let mut transaction = self.write_tx().await?;
        let began = Instant::now();
        let last: Option<i64> = query_scalar(
            "SELECT MAX(number) FROM (SELECT number FROM states \
             WHERE history = $1 AND number < $2 ORDER BY number LIMIT $3) AS oldest",
        )
        .bind(history)
        .bind(floor)
        .bind(STATES)
        .fetch_one(&mut transaction)
        .await?;
        let Some(last) = last else {
            transaction.rollback().await?;
            return Ok(0);
        };
        query("DELETE FROM state_layers WHERE history = $1 AND number <= $2")
            .bind(history)
            .bind(last)
            .execute(&mut transaction)
            .await?;
        let states = query("DELETE FROM states WHERE history = $1 AND number <= $2")
            .bind(history)
            .bind(last)
            .execute(&mut transaction)
            .await?;
        if counted {
            let fewer = i64::try_from(states).unwrap_or(i64::MAX);
            count(&mut transaction, "states", -fewer).await?;
        }
        transaction.commit().await?;
        pause(began).await;
        Ok(states)
    }
}

/// Pauses after a transaction that began at `began`. The pause is as long as the transaction,
/// [`LONGEST_PAUSE`] at most. Without the pause, other writers would wait for a transaction of this
/// module almost every time.
async fn pause(began: Instant) {
    tokio::time::sleep(began.elapsed().min(LONGEST_PAUSE)).await;
}

/// The number of the oldest state that stays. All later states stay, too, and none of them is a
/// rollback to a removed state. So a rollback to a kept state works as before.
async fn floor(transaction: &mut Tx, history: i64, before: Timestamp) -> Result<i64> {
    let newer: Option<i64> =
        query_scalar("SELECT MIN(number) FROM states WHERE history = $1 AND modified >= $2")
            .bind(history)
            .bind(nanoseconds(before))
            .fetch_one(&mut *transaction)
            .await?;
    let kept: BTreeSet<i64> = uses::numbers(transaction, history).await?;
    let mut floor = newer.into_iter().chain(kept.first().copied()).min().unwrap_or(0);
    loop {
        let restored: Option<i64> =
            query_scalar("SELECT MIN(back_to) FROM states WHERE history = $1 AND number >= $2")
                .bind(history)
                .bind(floor)
                .fetch_one(&mut *transaction)
                .await?;
        match restored {
            Some(number) if number < floor => floor = number,
            _ => return Ok(floor),
        }
    }
}
