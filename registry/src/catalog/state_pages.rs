//! Reads pages of the history of a configuration: the states with their layers, and whether a
//! rollback can restore each state.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use deploy_store::{Configuration, ConfigurationName};

use super::configuration_rows::{State, load_after, states};
use super::earlier_state::lack_of;
use super::tx::query_as;
use super::{Catalog, Result};

/// Number of states that the query reads in addition to the page. These states are older than the
/// page. The function searches them for the state that was current before the oldest state of the
/// page.
const BELOW: u64 = 10;

/// A state on a page of the history.
#[derive(Debug, Clone)]
pub struct ListedState {
    /// The state.
    pub state: State,
    /// The number of the state that was current before this state. `None` if there is no such
    /// state, or if too many states that were never current come in between.
    pub before: Option<u64>,
    /// Whether a rollback can restore the state: all its versions and their files exist.
    pub is_restorable: bool,
    /// The last rollout whose target is this state; `None` if there is no such rollout.
    pub rollout: Option<StateRollout>,
}

/// A rollout on a page of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRollout {
    /// The number of the rollout.
    pub number: u64,
    /// The status of the rollout as one word.
    pub status: String,
    /// Whether the rollout has ended.
    pub has_ended: bool,
}

/// A page of the history.
#[derive(Debug, Clone)]
pub struct StatePage {
    /// The states, newest first.
    pub states: Vec<ListedState>,
    /// The layers of these states and of some earlier states, by the number of the state.
    pub contents: BTreeMap<u64, Configuration>,
    /// Whether there are older states.
    pub has_older: bool,
}

impl Catalog {
    /// The newest `limit` states of a configuration. With `before`, the newest states with numbers
    /// below `before`.
    pub async fn state_page(
        &self,
        name: &ConfigurationName,
        before: Option<u64>,
        limit: u64,
    ) -> Result<StatePage> {
        let mut transaction = self.read_tx().await?;
        let all = states(&mut transaction, name, before, limit + BELOW).await?;
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_older = all.len() > size;
        let oldest = all.last().map_or(0, |state| state.number);
        let after = oldest.saturating_sub(1);
        let contents = load_after(&mut transaction, name, after, all.len() as u64).await?;
        let contents: BTreeMap<u64, Configuration> = contents.into_iter().collect();
        let rollouts: Vec<(i64, i64, String, bool)> = query_as(
            "SELECT r.target, r.number, r.status, r.ended IS NOT NULL FROM rollouts r \
             JOIN configurations c ON c.name = r.configuration AND c.history = r.history \
             WHERE r.configuration = $1 AND r.target >= $2 ORDER BY r.number",
        )
        .bind(name.as_str())
        .bind(oldest.cast_signed())
        .fetch_all(&mut transaction)
        .await?;
        let rollouts = rollouts.into_iter().map(|(target, number, status, has_ended)| {
            let number = number.cast_unsigned();
            (target.cast_unsigned(), StateRollout { number, status, has_ended })
        });
        let mut rollouts: HashMap<u64, StateRollout> = rollouts.collect();
        // Successive states share most layers, so the function checks each layer only once.
        let mut known = HashMap::new();
        let mut listed = Vec::new();
        for (place, state) in all.iter().enumerate().take(size) {
            let mut is_restorable = true;
            for layer in contents.get(&state.number).map_or(&[][..], Configuration::layers) {
                let key = (&layer.component, &layer.version, layer.digest);
                is_restorable &= match known.entry(key) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        *new.insert(lack_of(&mut transaction, layer).await?.is_none())
                    }
                };
            }
            let earlier = all[place + 1..].iter().find(|state| !state.proposed);
            let before = earlier.map(|state| state.number);
            let rollout = rollouts.remove(&state.number);
            listed.push(ListedState { state: state.clone(), before, is_restorable, rollout });
        }
        Ok(StatePage { states: listed, contents, has_older })
    }
}
