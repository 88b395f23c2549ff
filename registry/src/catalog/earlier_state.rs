//! Rolls configurations back. A rollback saves the layers of an earlier state of a configuration as
//! a new state. If several rollbacks without a number follow each other, each rollback restores an
//! older state than the rollback before it.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{Configuration, ConfigurationName, Digest, Layer};

use super::audit::Change;
use super::configuration_rows::{State, load, require_current, require_state, save, states};
use super::tx::{Tx, query};
use super::versions::find_version;
use super::{Catalog, Error, Result, blob_rows};

/// How many states the first query reads. Each further query reads four times as many states as the
/// query before it.
const PAGE: u64 = 64;

/// The result of the search for the state that a rollback restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The rollback restores the state with this number.
    State(u64),
    /// The answer depends on states that are older than the given states.
    Older,
    /// There is no state to restore.
    None,
}

/// Why a rollback cannot restore a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The version does not exist any more, or has other contents now.
    Version,
    /// The file of the version is damaged or missing.
    File,
}

impl Lack {
    fn text(self, name: &ConfigurationName, target: u64, layer: &Layer) -> String {
        let Layer { component, version, digest, .. } = layer;
        match self {
            Self::Version => format!(
                "state {target} of configuration \"{name}\" needs version \"{version}\" of \
                 component \"{component}\", which was deleted or replaced"
            ),
            Self::File => format!(
                "state {target} of configuration \"{name}\" needs the file {digest}, which is \
                 damaged or missing; upload the same bytes again"
            ),
        }
    }
}

/// Why a rollback cannot restore `layer`; `None` if a rollback can restore it.
pub(super) async fn lack_of(transaction: &mut Tx, layer: &Layer) -> Result<Option<Lack>> {
    let found = find_version(transaction, &layer.component, &layer.version).await?;
    if found.is_none_or(|found| found.digest != layer.digest) {
        return Ok(Some(Lack::Version));
    }
    let is_live = blob_rows::is_live(transaction, layer.digest).await?;
    Ok((!is_live).then_some(Lack::File))
}

/// The result of a rollback.
#[derive(Debug)]
pub struct RolledBack {
    /// The number of the restored state.
    pub number: u64,
    /// The state that was current before the rollback.
    pub from: Configuration,
    /// The restored state.
    pub to: Configuration,
}

impl Catalog {
    /// Saves the layers of the state number `to` as a new state. Without `to`, restores the state
    /// that [`Catalog::rollback_target`] returns.
    pub async fn roll_back(
        &self,
        name: &ConfigurationName,
        to: Option<u64>,
        change: &Change,
    ) -> Result<RolledBack> {
        let mut transaction = self.change_tx(change).await?;
        let now = require_current(&mut transaction, name).await?;
        let target = match to {
            Some(number) => {
                require_state(&mut transaction, name, number).await?;
                number
            }
            None => find_before(&mut transaction, name).await?,
        };
        let from = load(&mut transaction, name, now).await?;
        let to = load(&mut transaction, name, target).await?;
        for old in to.layers() {
            if let Some(lack) = lack_of(&mut transaction, old).await? {
                return Err(Error::Conflict(lack.text(name, target, old)));
            }
        }
        let (made, _) = save(&mut transaction, name, to.layers().to_vec(), change).await?;
        query(
            "UPDATE states SET back_to = $1 WHERE number = $3 \
             AND history = (SELECT history FROM configurations WHERE name = $2)",
        )
        .bind(target.cast_signed())
        .bind(name.as_str())
        .bind(made.cast_signed())
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(RolledBack { number: target, from, to })
    }

    /// The number of the state that a rollback without `to` would restore.
    pub async fn rollback_target(&self, name: &ConfigurationName) -> Result<u64> {
        let mut transaction = self.read_tx().await?;
        require_current(&mut transaction, name).await?;
        find_before(&mut transaction, name).await
    }
}

/// The number of the state that a rollback without a number restores. The function reads the
/// history backwards from the newest state, as far as needed.
pub(super) async fn find_before(transaction: &mut Tx, name: &ConfigurationName) -> Result<u64> {
    let mut page = PAGE;
    loop {
        let states = states(transaction, name, None, page).await?;
        let is_whole = (states.len() as u64) < page;
        match before(&states, is_whole) {
            Before::State(number) => return Ok(number),
            Before::Older => page = page.saturating_mul(4),
            Before::None => {
                let text = format!("configuration \"{name}\" has no earlier state to go back to");
                return Err(Error::NotFound(text));
            }
        }
    }
}

/// Chooses the state that a rollback restores. `states` has the newest states, newest first.
/// `is_whole` says whether these states are the whole history. The search begins at the current
/// state and moves to older states. At a state that a rollback made, the search jumps to the state
/// that this rollback restored. The search skips states that have the tree of the current state,
/// and states that were imported without their files. It also skips the trees that these rollbacks
/// replaced (see [`left_by`]), because operators rejected these trees.
fn before(states: &[State], is_whole: bool) -> Before {
    let Some(now) = states.iter().find(|state| state.current) else { return Before::None };
    // A proposed state was never current, so a rollback does not restore it.
    let was_current = states.iter().filter(|state| !state.proposed);
    let numbered: BTreeMap<u64, &State> = was_current.map(|it| (it.number, it)).collect();
    let oldest = states.last().map_or(0, |state| state.number);
    let is_older = |number: u64| !is_whole && number < oldest;
    let earlier = |than: u64| numbered.range(..than).next_back().map(|(_, state)| *state);
    let origins = origins(&numbered);
    let mut wrong = BTreeSet::from([now.hash]);
    let mut at = now;
    loop {
        let to = at.back_to.filter(|to| *to < at.number);
        if to.is_some_and(is_older) {
            return Before::Older;
        }
        at = if let Some(to) = to.and_then(|to| numbered.get(&to)) {
            let Some(left) = left_by(at, &numbered, &origins, is_older) else {
                return Before::Older;
            };
            wrong.extend(left);
            to
        } else {
            match earlier(at.number) {
                Some(state) if !state.lost && !wrong.contains(&state.hash) => {
                    return Before::State(state.number);
                }
                Some(state) => state,
                None if is_whole => return Before::None,
                None => return Before::Older,
            }
        };
    }
}

/// The trees that the rollback `at`, and the rollbacks directly before `at`, replaced. The function
/// stops at a rollback whose restored state is not older than the replaced state. `None` if the
/// answer depends on states older than `numbered`.
fn left_by(
    at: &State,
    numbered: &BTreeMap<u64, &State>,
    origins: &BTreeMap<u64, u64>,
    is_older: impl Fn(u64) -> bool,
) -> Option<Vec<Digest>> {
    let origin = |number: u64| origins.get(&number).copied().unwrap_or(number);
    let (mut at, mut left) = (at, Vec::new());
    while let Some(to) = at.back_to {
        let Some((_, before)) = numbered.range(..at.number).next_back() else {
            return (!is_older(at.number.saturating_sub(1))).then_some(left);
        };
        let (came_from, went_to) = (origin(before.number), origin(to));
        if is_older(came_from) || is_older(went_to) {
            return None;
        }
        // If the origin of the restored state is not older than the origin of the replaced state,
        // an operator chose the restored state deliberately. Such a rollback does not show that the
        // replaced tree is wrong.
        if came_from <= went_to {
            break;
        }
        left.push(before.hash);
        at = before;
    }
    Some(left)
}

/// Maps the number of each state to the number of its origin. If a rollback made the state, its
/// origin is the origin of the restored state. Any other state is its own origin.
fn origins(numbered: &BTreeMap<u64, &State>) -> BTreeMap<u64, u64> {
    let mut origins = BTreeMap::new();
    for (&number, state) in numbered {
        // A restored state that is not in `numbered` counts as its own origin. Its number still
        // shows that it is older than all states in `numbered`.
        let origin = state.back_to.map_or(number, |to| origins.get(&to).copied().unwrap_or(to));
        origins.insert(number, origin);
    }
    origins
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// Makes one state from each word of `history`. A number stands for a rollback to the state
    /// with this number, and `lost` stands for a state without its files. Any other word is the
    /// name of the state's tree. The last state is current.
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
            let proposed = word == "proposed";
            let current = !proposed;
            let state =
                State { number, hash, modified, who, command, current, lost, back_to, proposed };
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
            // Each rollback goes further back, and skips the trees that earlier rollbacks replaced.
            ("a b c 2", Some(1)),
            ("a b c 2 1", None),
            ("a b 1", None),
            ("a b c d 3 2", Some(1)),
            ("a b c d 3 2 1", None),
            // Here, a new tree follows a rollback.
            ("a b c 2 d", Some(4)),
            ("a b c 2 d 4", Some(1)),
            ("a b 1 c", Some(3)),
            ("a b 1 c 3", None),
            ("a b 1 c d 4", Some(3)),
            ("a b 1 c d 4 3", None),
            // Here, the last state has the tree of an earlier state, but no rollback made it. The
            // rollback restores the same state as without the last state.
            ("a b 1 a", None),
            ("a b c 2 b", Some(1)),
            // A replaced tree is also skipped if an older state has this tree.
            ("b a b 2", None),
            ("c b a b 3", Some(1)),
            // A tree that the first of several successive rollbacks replaced is skipped, too.
            ("a b 1 c d a 5 4", None),
            ("e a c d a 4 3", Some(1)),
            // A rollback to a later state is deliberate, and marks no tree as wrong.
            ("a b 1 2", Some(1)),
            ("a b c 1 3", Some(2)),
            ("a b c 2 3", Some(2)),
            ("a b c 1", None),
            // A state without files is skipped.
            ("a lost c", Some(1)),
            ("a lost c 1", None),
        ] {
            let states = states(history);
            let want = want.map_or(Before::None, Before::State);
            assert_eq!(before(&states, true), want, "{history}");
            // With fewer states, the answer is the same, or the search asks for older states.
            for count in 1..states.len() {
                let found = before(&states[..count], false);
                assert!(found == Before::Older || found == want, "{history}: {found:?} of {count}");
            }
        }
    }
}
