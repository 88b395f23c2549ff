//! Going back to an earlier state of a configuration, further with each rollback.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{Configuration, ConfigurationName};
use deploy_wire::exit;

use crate::catalog::audit::Change;
use crate::catalog::blob_rows;
use crate::catalog::configurations::{State, current, load, save, states};
use crate::catalog::versions::find_version;
use crate::catalog::{Catalog, Result, refuse};

/// What a rollback did.
#[derive(Debug)]
pub struct RolledBack {
    /// Number of the state that was gone back to.
    pub number: u64,
    /// What was current before.
    pub from: Configuration,
    /// What is current now.
    pub to: Configuration,
}

impl Catalog {
    /// Makes the state `to` current again, as a new state; without a number the one before the
    /// current one.
    pub async fn roll_back(
        &self,
        name: &ConfigurationName,
        to: Option<u64>,
        change: &Change,
    ) -> Result<RolledBack> {
        let mut transaction = self.begin_change(change).await?;
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
            return refuse(exit::NOT_FOUND, text);
        };
        let now = current(&mut transaction, name).await?;
        let from = load(&mut transaction, name, now).await?;
        let to = load(&mut transaction, name, target).await?;
        for old in to.layers() {
            let here = find_version(&mut transaction, &old.component, &old.version).await;
            if !matches!(&here, Ok(here) if here.digest == old.digest) {
                let (component, version) = (&old.component, &old.version);
                let text = format!(
                    "state {target} of configuration \"{name}\" needs version \"{version}\" of \
                     component \"{component}\", which is gone"
                );
                return refuse(exit::CONFLICT, text);
            }
            if !blob_rows::is_live(&mut transaction, old.digest).await? {
                let digest = old.digest;
                let text = format!(
                    "state {target} of configuration \"{name}\" needs the file {digest}, which is \
                     not here; upload the same bytes again"
                );
                return refuse(exit::CONFLICT, text);
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

/// The state before the current one, of `states`, newest first. It has another tree, and its
/// files are here. What was rolled back from on the way to the current state is passed over, also
/// where the same tree stands further back: somebody found it wrong.
fn before(states: &[State]) -> Option<&State> {
    let now = states.iter().find(|state| state.current)?;
    let numbered: BTreeMap<u64, &State> = states.iter().map(|it| (it.number, it)).collect();
    let earlier = |than: u64| numbered.range(..than).next_back().map(|(_, state)| *state);
    let origins = origins(&numbered);
    let origin = |number: u64| origins.get(&number).copied().unwrap_or(number);
    let mut wrong = BTreeSet::from([now.hash]);
    let mut at = now;
    loop {
        at = match at.back_to.and_then(|to| numbered.get(&to)).filter(|to| to.number < at.number) {
            Some(to) => {
                // Whoever goes forth again, by number, takes back that it was wrong.
                if let Some(left) = earlier(at.number)
                    && origin(left.number) > origin(to.number)
                {
                    wrong.insert(left.hash);
                }
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

/// For each state the number of the one that it goes back to in the end, if not its own.
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
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;

    /// States with these trees, the last of them current; a number is a rollback to it.
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
    fn goes_on_backwards_and_never_forth_again() {
        for (history, want) in [
            ("a", None),
            ("a b", Some(1)),
            ("a a b b", Some(2)),
            ("a b c", Some(2)),
            // Further back each time, past what was rolled back from.
            ("a b c 2", Some(1)),
            ("a b c 2 1", None),
            ("a b 1", None),
            ("a b c d 3 2", Some(1)),
            ("a b c d 3 2 1", None),
            // Something new after a rollback.
            ("a b c 2 d", Some(4)),
            ("a b c 2 d 4", Some(1)),
            ("a b 1 c", Some(3)),
            ("a b 1 c 3", None),
            ("a b 1 c d 4", Some(3)),
            ("a b 1 c d 4 3", None),
            // What is as before was not made by a rollback, and hides none.
            ("a b 1 a", None),
            ("a b c 2 b", Some(1)),
            // The same tree, further back, of which somebody found that it is wrong.
            ("b a b 2", None),
            ("c b a b 3", Some(1)),
            // By number, forth again: that was meant.
            ("a b 1 2", Some(1)),
            ("a b c 1 3", Some(2)),
            ("a b c 2 3", Some(2)),
            ("a b c 1", None),
            // What has no files is passed over.
            ("a lost c", Some(1)),
            ("a lost c 1", None),
        ] {
            let states = states(history);
            assert_eq!(before(&states).map(|state| state.number), want, "{history}");
        }
    }
}
