//! Starts rollouts. The new state of a configuration first becomes a proposal, and the rollout
//! brings the proposal to the hosts.

use deploy_rollout::{Change as Step, Rollout, apply};
use deploy_store::{ConfigurationName, Digest};

use super::rollout_rows::{self, RolloutRow};
use super::{policies, rollout_end};
use crate::catalog::audit::Change;
use crate::catalog::counters::count;
use crate::catalog::fleet::events::{self, Kind};
use crate::catalog::fleet::running::{self, Current};
use crate::catalog::tx::query;
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Error, Result, bad_row, nanoseconds};

/// Handles the active rollout of a configuration before a change. If the change supersedes the
/// rollout, the function ends the rollout. Otherwise, the function refuses the change.
pub async fn make_way(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    change: &Change,
) -> Result<()> {
    let Some(row) = rollout_rows::active(transaction, name).await? else { return Ok(()) };
    if !change.rolling.supersedes {
        return Err(Error::Conflict(in_the_way(&row)));
    }
    end(transaction, &row, Step::Supersede, change).await
}

fn in_the_way(row: &RolloutRow) -> String {
    let RolloutRow { number, configuration: name, rollout, .. } = row;
    format!(
        "configuration \"{name}\" has rollout {number}, which is {}; wait until the rollout \
         ends, end it with rollout abort, or replace it with -supersede",
        rollout.status.word()
    )
}

/// Ends an active rollout. The registry then offers the base to all hosts again.
pub async fn end(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    step: Step,
    change: &Change,
) -> Result<()> {
    let mut rollout = row.rollout.clone();
    apply(&mut rollout, &mut [], &step, change.now);
    rollout_rows::write(transaction, row, &rollout, change.now).await?;
    rollout_end::back_to_base(transaction, row).await?;
    let kind = if step == Step::Supersede { Kind::RolloutSuperseded } else { Kind::RolloutAborted };
    let (name, text) = (row.configuration.as_str(), format!("rollout {}", row.number));
    events::add(transaction, change.now, kind, name, "", &text).await
}

/// A new state of a configuration that is not current yet.
pub struct Proposal<'a> {
    /// The configuration.
    pub name: &'a ConfigurationName,
    /// The number of the configuration's history.
    pub history: i64,
    /// The number of the new state.
    pub number: i64,
    /// The id of the new state.
    pub id: Digest,
    /// The number of the change that made the new state.
    pub revision: i64,
}

/// Starts the rollout of a proposal, if [`policies::choose`] finds a policy for the change. A new
/// configuration gets no rollout. Returns whether a rollout was started.
pub async fn start(
    transaction: &mut WriteTx,
    proposal: &Proposal<'_>,
    change: &Change,
) -> Result<bool> {
    let Proposal { name, history, number: target, id, revision } = *proposal;
    let Some(policy) = policies::choose(transaction, name, &change.rolling).await? else {
        return Ok(false);
    };
    let Some(current) = running::current(transaction, name).await? else { return Ok(false) };
    let number = count(transaction, "rollout", 1).await?;
    let rollout = Rollout::new(policy, change.now);
    query(
        "INSERT INTO rollouts (number, configuration, history, base, target, revision, policy, \
         status, why, status_since, who, started) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, $9)",
    )
    .bind(number)
    .bind(name.as_str())
    .bind(history)
    .bind(current.number)
    .bind(target)
    .bind(revision)
    .bind(serde_json::to_string(&rollout.policy).map_err(|err| bad_row(&err))?)
    .bind(rollout.status.word())
    .bind(nanoseconds(change.now))
    .bind(&change.key)
    .execute(&mut *transaction)
    .await?;
    query("UPDATE states SET proposed = TRUE WHERE history = $1 AND number = $2")
        .bind(history)
        .bind(target)
        .execute(&mut *transaction)
        .await?;
    // The rollout counts as one host that runs the target, so that gc keeps the target's layers.
    running::change(transaction, &Current { history, ..current }, None, Some(target)).await?;
    transaction.moves_rollout();
    rollout_rows::prune(transaction, name).await?;
    let text = format!("rollout {number}: state {target}, {id}");
    events::add(transaction, change.now, Kind::RolloutStarted, name.as_str(), "", &text).await?;
    Ok(true)
}
