//! Maintains the table `uses`, which has the kept states of each configuration, and their layers.
//! The kept states are the current state, the rollback targets, the target of an active rollout,
//! the states that hosts run, and the states that the registry offers to held hosts. The rollback
//! targets are the newest states with different trees. Every change of a configuration changes
//! `uses` in the same transaction. So no reader needs to search a history for kept states.

#[cfg(test)]
mod random_changes;

use std::collections::BTreeSet;

use deploy_store::{Meter, Unit};

use super::tx::{Tx, query, query_as, query_scalar};
use super::write_tx::WriteTx;
use super::{Catalog, Result};

/// How many states each query reads during the search for the states to keep.
const PAGE: u32 = 64;
/// The name of the counter with the value of `-keep-states` for which the table was made. While the
/// table is being rebuilt, the counter is -1.
const COUNTER: &str = "keep_states";

/// The part of a state that the choice of kept states needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) number: i64,
    /// The digest of the state's layers.
    pub(super) hash: String,
    /// Whether the state was imported without the files of its layers, or was never current.
    pub(super) lost: bool,
}

/// Chooses the states to keep. The caller passes the states of a history one by one, newest first.
#[derive(Debug)]
pub(super) struct Choice {
    keep: usize,
    current: i64,
    hashes: BTreeSet<String>,
}

impl Choice {
    /// A choice that keeps the state `current` and the newest `keep` states with different hashes.
    pub(super) fn new(keep: usize, current: i64) -> Self {
        Self { keep, current, hashes: BTreeSet::new() }
    }

    /// Whether the choice keeps the next state. It keeps a lost state only while the state is
    /// current.
    pub(super) fn takes(&mut self, state: &Candidate) -> bool {
        let is_current = state.number == self.current;
        if state.lost && !is_current {
            return false;
        }
        let is_new = self.hashes.len() < self.keep && self.hashes.insert(state.hash.clone());
        is_new || is_current
    }

    /// Whether the choice is complete: of the older states, it keeps only the current state.
    pub(super) fn is_complete(&self) -> bool {
        self.hashes.len() >= self.keep
    }
}

/// The numbers of the states in `kept` to drop when `added` becomes current. `kept` has the newest
/// state first. `None` if a state in `kept` is lost. A lost state is kept only while it is current
/// or in the table `running`, so the new choice may need older states.
fn dropped(kept: &[Candidate], added: &Candidate, keep: usize) -> Option<Vec<i64>> {
    if kept.iter().any(|state| state.lost) {
        return None;
    }
    let mut choice = Choice::new(keep, added.number);
    choice.takes(added);
    Some(kept.iter().filter(|state| !choice.takes(state)).map(|state| state.number).collect())
}

impl Catalog {
    /// Rebuilds the table if it was made for another value of `-keep-states`. `meter` counts the
    /// configurations.
    pub(super) async fn renew_uses(&self, meter: &Meter) -> Result<()> {
        let made: i64 = query_scalar("SELECT value FROM counters WHERE name = $1")
            .bind(COUNTER)
            .fetch_one(&mut self.read_tx().await?)
            .await?;
        let wanted = i64::try_from(self.keep_states).unwrap_or(i64::MAX);
        if made == wanted {
            return Ok(());
        }
        // If this run is interrupted, the value -1 makes the next start repeat the run.
        self.count_kept(-1).await?;
        let configurations: Vec<(i64, i64)> =
            query_as("SELECT history, current FROM configurations ORDER BY history")
                .fetch_all(&mut self.read_tx().await?)
                .await?;
        let count = configurations.len() as u64;
        meter.begin("examined", Unit::Items("configurations"), count);
        for some in configurations.chunks(100) {
            let mut transaction = self.write_tx().await?;
            for (history, current) in some {
                renew(&mut transaction, *history, *current).await?;
            }
            transaction.commit().await?;
            meter.add(some.len() as u64);
        }
        meter.end();
        self.count_kept(wanted).await
    }

    async fn count_kept(&self, value: i64) -> Result<()> {
        let query = query("UPDATE counters SET value = $1 WHERE name = $2");
        self.write_one(query.bind(value).bind(COUNTER)).await?;
        Ok(())
    }

    /// Compares the table with the states. Returns the names of the configurations for which the
    /// table is wrong.
    pub(super) async fn wrong_uses(&self) -> Result<Vec<String>> {
        let mut transaction = self.scan_tx().await?;
        let configurations: Vec<(String, i64, i64)> =
            query_as("SELECT name, history, current FROM configurations ORDER BY name")
                .fetch_all(&mut transaction)
                .await?;
        let mut wrong = Vec::new();
        for (name, history, current) in configurations {
            let mut right = kept(&mut transaction, history, current, self.keep_states).await?;
            right.extend(running(&mut transaction, history).await?);
            if right != numbers(&mut transaction, history).await?
                || differs(&mut transaction, history).await?
            {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }
}

/// Whether the table's layers for the kept states of a history differ from the states' layers.
async fn differs(transaction: &mut Tx, history: i64) -> Result<bool> {
    let (unlike, recorded, layers): (i64, i64, i64) = query_as(
        "SELECT (SELECT COUNT(*) FROM uses u WHERE u.history = $1 AND NOT EXISTS \
           (SELECT 1 FROM state_layers l WHERE l.history = u.history AND l.number = u.number \
            AND l.position = u.position AND l.component = u.component \
            AND l.version = u.version AND l.digest = u.digest)), \
         (SELECT COUNT(*) FROM uses WHERE history = $1), \
         (SELECT COUNT(*) FROM (SELECT DISTINCT number FROM uses WHERE history = $1) n \
            JOIN state_layers l ON l.history = $1 AND l.number = n.number)",
    )
    .bind(history)
    .fetch_one(&mut *transaction)
    .await?;
    Ok(unlike != 0 || recorded != layers)
}

/// Updates the table after the state `added` became the current state of a history.
pub(super) async fn add(transaction: &mut WriteTx, history: i64, added: &Candidate) -> Result<()> {
    let rows: Vec<(i64, String, bool)> = query_as(
        "SELECT n.number, s.hash, s.lost OR s.proposed \
         FROM (SELECT DISTINCT number FROM uses WHERE history = $1) AS n \
         JOIN states s ON s.history = $1 AND s.number = n.number ORDER BY n.number DESC",
    )
    .bind(history)
    .fetch_all(&mut *transaction)
    .await?;
    let candidate = |(number, hash, lost)| Candidate { number, hash, lost };
    let before: Vec<Candidate> = rows.into_iter().map(candidate).collect();
    let Some(dropped) = dropped(&before, added, transaction.keep_states) else {
        return renew(transaction, history, added.number).await;
    };
    let in_use = running(transaction, history).await?;
    for number in dropped.into_iter().filter(|number| !in_use.contains(number)) {
        query("DELETE FROM uses WHERE history = $1 AND number = $2")
            .bind(history)
            .bind(number)
            .execute(&mut *transaction)
            .await?;
    }
    put(transaction, history, added.number).await
}

/// Rebuilds the table's rows for one history.
pub(super) async fn renew(transaction: &mut WriteTx, history: i64, current: i64) -> Result<()> {
    let keep = transaction.keep_states;
    let mut kept = kept(transaction, history, current, keep).await?;
    kept.extend(running(transaction, history).await?);
    delete(transaction, history).await?;
    for number in kept {
        put(transaction, history, number).await?;
    }
    Ok(())
}

/// The numbers of a history's states in the table `running`: the states that hosts run, the states
/// that the registry offers to held hosts, and the target of an active rollout.
async fn running(transaction: &mut Tx, history: i64) -> Result<BTreeSet<i64>> {
    let numbers: Vec<i64> = query_scalar("SELECT number FROM running WHERE history = $1")
        .bind(history)
        .fetch_all(&mut *transaction)
        .await?;
    Ok(numbers.into_iter().collect())
}

/// Adds a state of the table `running` to the table `uses`, unless `uses` has this state already.
pub(super) async fn protect(transaction: &mut WriteTx, history: i64, number: i64) -> Result<()> {
    if numbers(transaction, history).await?.contains(&number) {
        return Ok(());
    }
    put(transaction, history, number).await
}

/// Deletes the rows of a history from the table.
pub(super) async fn delete(transaction: &mut WriteTx, history: i64) -> Result<()> {
    query("DELETE FROM uses WHERE history = $1").bind(history).execute(&mut *transaction).await?;
    Ok(())
}

/// The numbers of a history's states in the table.
pub(super) async fn numbers(transaction: &mut Tx, history: i64) -> Result<BTreeSet<i64>> {
    let numbers: Vec<i64> = query_scalar("SELECT DISTINCT number FROM uses WHERE history = $1")
        .bind(history)
        .fetch_all(&mut *transaction)
        .await?;
    Ok(numbers.into_iter().collect())
}

async fn put(transaction: &mut WriteTx, history: i64, number: i64) -> Result<()> {
    query(
        "INSERT INTO uses (history, number, position, component, version, digest) \
         SELECT history, number, position, component, version, digest FROM state_layers \
         WHERE history = $1 AND number = $2",
    )
    .bind(history)
    .bind(number)
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// The numbers of a history's states to keep. The function reads the history backwards from the
/// newest state, as far as needed.
async fn kept(
    transaction: &mut Tx,
    history: i64,
    current: i64,
    keep: usize,
) -> Result<BTreeSet<i64>> {
    let mut choice = Choice::new(keep, current);
    let (mut kept, mut before) = (BTreeSet::new(), i64::MAX);
    loop {
        let rows: Vec<(i64, String, bool)> = query_as(
            "SELECT number, hash, lost OR proposed FROM states WHERE history = $1 AND number < $2 \
             ORDER BY number DESC LIMIT $3",
        )
        .bind(history)
        .bind(before)
        .bind(i64::from(PAGE))
        .fetch_all(&mut *transaction)
        .await?;
        for (number, hash, lost) in rows.iter().cloned() {
            before = number;
            if choice.takes(&Candidate { number, hash, lost }) {
                kept.insert(number);
            }
        }
        if (choice.is_complete() && before <= current) || rows.len() < PAGE as usize {
            return Ok(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: i64, hash: &str) -> Candidate {
        Candidate { number, hash: hash.to_owned(), lost: hash == "lost" }
    }

    /// The numbers of the states to keep. `hashes` has the hashes of a history's states, oldest
    /// first.
    fn chosen(hashes: &[&str], keep: usize) -> Vec<i64> {
        let current = i64::try_from(hashes.len()).unwrap();
        let mut choice = Choice::new(keep, current);
        let states = (1..).zip(hashes).map(|(number, hash)| state(number, hash));
        let states: Vec<Candidate> = states.collect();
        let kept = states.iter().rev().filter(|state| choice.takes(state));
        kept.map(|state| state.number).collect()
    }

    #[test]
    fn newest_states_with_different_trees_are_kept() {
        for (hashes, keep, want) in [
            (&["a", "b", "c"][..], 2, &[3, 2][..]),
            (&["a", "b", "a"], 2, &[3, 2]),
            (&["a", "a", "a"], 2, &[3]),
            (&["a", "b", "c", "b", "c"], 3, &[5, 4, 1]),
            (&["a", "lost", "c"], 2, &[3, 1]),
            (&["a", "b", "lost"], 2, &[3, 2]),
            (&["a", "b"], 0, &[2]),
        ] {
            assert_eq!(chosen(hashes, keep), want, "{hashes:?}, {keep}");
        }
    }

    #[test]
    fn dropping_one_by_one_keeps_the_same_states_as_a_full_choice() {
        let hashes = ["a", "b", "a", "c", "c", "d", "b", "a", "e", "a", "b"];
        for keep in 1..5 {
            let mut kept: Vec<Candidate> = Vec::new();
            for end in 1..=hashes.len() {
                let added = state(i64::try_from(end).unwrap(), hashes[end - 1]);
                let dropped = dropped(&kept, &added, keep).unwrap();
                kept.retain(|state| !dropped.contains(&state.number));
                kept.insert(0, added);
                let numbers: Vec<i64> = kept.iter().map(|state| state.number).collect();
                assert_eq!(numbers, chosen(&hashes[..end], keep), "{end}, {keep}");
            }
        }
    }

    #[test]
    fn older_states_are_needed_after_a_state_without_its_files() {
        assert_eq!(dropped(&[state(3, "lost"), state(2, "b")], &state(4, "b"), 2), None);
    }
}
