//! Rollbacks: they make an earlier state of a configuration current again, and each goes further
//! back than the last.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{Configuration, ConfigurationName, Digest};

use super::audit::Change;
use super::configuration_rows::{State, load, require_current, save, states};
use super::versions::find_version;
use super::{Catalog, Error, Result, blob_rows};

/// What a rollback did.
#[derive(Debug)]
pub struct RolledBack {
    /// Number of the restored state.
    pub number: u64,
    /// The state that was current before.
    pub from: Configuration,
    /// The state that is current now.
    pub to: Configuration,
}

impl Catalog {
    /// Makes the state `to` current again, as a new state. Without a number, it restores the state
    /// before the current one.
    pub async fn roll_back(
        &self,
        name: &ConfigurationName,
        to: Option<u64>,
        change: &Change,
    ) -> Result<RolledBack> {
        let mut transaction = self.change_tx(change).await?;
        let states = states(&mut transaction, name, u64::MAX).await?;
        let target = match to {
            Some(number) => states.iter().find(|state| state.number == number),
            None => before(&states),
        };
        let Some(target) = target.map(|state| state.number) else {
            let text = match to {
                Some(number) => format!("configuration \"{name}\" has no state {number}"),
                None => format!("configuration \"{name}\" has no earlier state to go back to"),
            };
            return Err(Error::NotFound(text));
        };
        let now = require_current(&mut transaction, name).await?;
        let from = load(&mut transaction, name, now).await?;
        let to = load(&mut transaction, name, target).await?;
        for old in to.layers() {
            let found = find_version(&mut transaction, &old.component, &old.version).await?;
            if found.is_none_or(|found| found.digest != old.digest) {
                let (component, version) = (&old.component, &old.version);
                let text = format!(
                    "state {target} of configuration \"{name}\" needs version \"{version}\" of \
                     component \"{component}\", which is gone"
                );
                return Err(Error::Conflict(text));
            }
            if !blob_rows::is_live(&mut transaction, old.digest).await? {
                let digest = old.digest;
                let text = format!(
                    "state {target} of configuration \"{name}\" needs the file {digest}, which is \
                     not here; upload the same bytes again"
                );
                return Err(Error::Conflict(text));
            }
        }
        let (made, _) = save(&mut transaction, name, to.layers().to_vec(), change).await?;
        sqlx::query("UPDATE states SET back_to = $1 WHERE configuration = $2 AND number = $3")
            .bind(target.cast_signed())
            .bind(name.as_str())
            .bind(made.cast_signed())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(RolledBack { number: target, from, to })
    }
}

/// The state to restore from `states`, which come newest first. It has another tree than the
/// current state, and its files exist. The search skips every tree that an earlier rollback left
/// on the way to the current state, because somebody found that tree wrong.
fn before(states: &[State]) -> Option<&State> {
    let now = states.iter().find(|state| state.current)?;
    let numbered: BTreeMap<u64, &State> = states.iter().map(|it| (it.number, it)).collect();
    let earlier = |than: u64| numbered.range(..than).next_back().map(|(_, state)| *state);
    let origins = origins(&numbered);
    let mut wrong = BTreeSet::from([now.hash]);
    let mut at = now;
    loop {
        at = match at.back_to.and_then(|to| numbered.get(&to)).filter(|to| to.number < at.number) {
            Some(to) => {
                wrong.extend(left_by(at, &numbered, &origins));
                to
            }
            None => {
                let state = earlier(at.number)?;
                if !state.lost && !wrong.contains(&state.hash) {
                    return Some(state);
                }
                state
            }
        };
    }
}

/// The trees that the rollback `at` and the rollbacks directly before it left.
fn left_by(
    at: &State,
    numbered: &BTreeMap<u64, &State>,
    origins: &BTreeMap<u64, u64>,
) -> Vec<Digest> {
    let origin = |number: u64| origins.get(&number).copied().unwrap_or(number);
    let (mut at, mut left) = (at, Vec::new());
    while let Some(to) = at.back_to
        && let Some((_, before)) = numbered.range(..at.number).next_back()
        // A rollback to a newer state, by number, says that the tree was not wrong.
        && origin(before.number) > origin(to)
    {
        left.push(before.hash);
        at = before;
    }
    left
}

/// For each state, the number of the state that it restores in the end, or its own.
fn origins(numbered: &BTreeMap<u64, &State>) -> BTreeMap<u64, u64> {
    let mut origins = BTreeMap::new();
    for (&number, state) in numbered {
        let origin = state.back_to.and_then(|to| origins.get(&to).copied()).unwrap_or(number);
        origins.insert(number, origin);
    }
    origins
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// States with these trees. The last is current. A number is a rollback to that state.
    fn states(history: &str) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        for (number, word) in (1_u64..).zip(history.split(' ')) {
            let back_to = word.parse::<u64>().ok();
            let gone_back = back_to.and_then(|to| states.iter().find(|state| state.number == to));
            let hash = gone_back.map_or(Digest::of(word.as_bytes()), |state| state.hash);
            for state in &mut states {
                state.current = false;
            }
            let (who, command) = (String::new(), String::new());
            let (modified, lost) = (Timestamp::UNIX_EPOCH, word == "lost");
            let state =
                State { number, hash, modified, who, command, current: true, lost, back_to };
            states.insert(0, state);
        }
        states
    }

    #[test]
    fn rollbacks_go_further_back_each_time() {
        for (history, want) in [
            ("a", None),
            ("a b", Some(1)),
            ("a a b b", Some(2)),
            ("a b c", Some(2)),
            // Each goes further back, past the trees that were rolled back.
            ("a b c 2", Some(1)),
            ("a b c 2 1", None),
            ("a b 1", None),
            ("a b c d 3 2", Some(1)),
            ("a b c d 3 2 1", None),
            // A new tree after a rollback.
            ("a b c 2 d", Some(4)),
            ("a b c 2 d 4", Some(1)),
            ("a b 1 c", Some(3)),
            ("a b 1 c 3", None),
            ("a b 1 c d 4", Some(3)),
            ("a b 1 c d 4 3", None),
            // A state that equals an earlier one without a rollback hides none.
            ("a b 1 a", None),
            ("a b c 2 b", Some(1)),
            // The same tree further back, after somebody found it wrong.
            ("b a b 2", None),
            ("c b a b 3", Some(1)),
            // The same tree further back, left by the first of several rollbacks in a row.
            ("a b 1 c d a 5 4", None),
            ("e a c d a 4 3", Some(1)),
            // To a newer state, by number: that was intended.
            ("a b 1 2", Some(1)),
            ("a b c 1 3", Some(2)),
            ("a b c 2 3", Some(2)),
            ("a b c 1", None),
            // A state without files is skipped.
            ("a lost c", Some(1)),
            ("a lost c 1", None),
        ] {
            let states = states(history);
            assert_eq!(before(&states).map(|state| state.number), want, "{history}");
        }
    }
}
