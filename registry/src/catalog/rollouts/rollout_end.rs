//! Ends a rollout: the target becomes current, or the registry offers the base to all hosts again.
//! The base is the state that was current when the rollout started.

use jiff::Timestamp;

use super::rollout_rows::RolloutRow;
use crate::catalog::Result;
use crate::catalog::counters::count;
use crate::catalog::fleet::events::{self, Kind};
use crate::catalog::fleet::running;
use crate::catalog::positions::raise_shown;
use crate::catalog::tx::{query, query_scalar};
use crate::catalog::uses;
use crate::catalog::write_tx::WriteTx;

/// Makes the target current. The target keeps its revision, so hosts that have confirmed the target
/// need not confirm it again.
pub async fn make_current(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    now: Timestamp,
) -> Result<()> {
    let (history, target) = (row.history, row.target.cast_signed());
    query("UPDATE states SET proposed = FALSE WHERE history = $1 AND number = $2")
        .bind(history)
        .bind(target)
        .execute(&mut *transaction)
        .await?;
    offer(transaction, row, target, row.revision.cast_signed()).await?;
    release(transaction, row).await?;
    uses::renew(transaction, history, target).await?;
    let (name, text) = (row.configuration.as_str(), format!("state {target}, {}", row.target_id));
    events::add(transaction, now, Kind::Changed, name, "", &text).await
}

/// Offers the base to all hosts again. A host of a wave has to confirm the base again, because the
/// host may be deploying the target.
pub async fn back_to_base(transaction: &mut WriteTx, row: &RolloutRow) -> Result<()> {
    let before: i64 = query_scalar("SELECT revision FROM configurations WHERE name = $1")
        .bind(row.configuration.as_str())
        .fetch_one(&mut *transaction)
        .await?;
    let revision = count(transaction, "revision", 1).await?;
    offer(transaction, row, row.base.cast_signed(), revision).await?;
    // A script confirms a state only once. So if a script has confirmed the base, and no wave has
    // taken the script's host, the registry itself writes the new revision to the script's row.
    query(
        "UPDATE agents SET revision = $2 WHERE configuration = $1 AND instance = '' \
         AND revision >= $3 AND host NOT IN (SELECT host FROM rollout_hosts WHERE rollout = $4)",
    )
    .bind(row.configuration.as_str())
    .bind(revision)
    .bind(before)
    .bind(row.number.cast_signed())
    .execute(&mut *transaction)
    .await?;
    release(transaction, row).await
}

/// Makes the state number `current` the current state, with the revision `revision`, so that the
/// registry offers this state to all hosts.
async fn offer(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    current: i64,
    revision: i64,
) -> Result<()> {
    transaction.changes(&row.configuration);
    transaction.moves_rollout();
    raise_shown(transaction).await?;
    query("UPDATE configurations SET current = $2, revision = $3 WHERE name = $1")
        .bind(row.configuration.as_str())
        .bind(current)
        .bind(revision)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

/// Ends the protection that the rollout gave to the layers of its target.
async fn release(transaction: &mut WriteTx, row: &RolloutRow) -> Result<()> {
    let Some(current) = running::current(transaction, &row.configuration).await? else {
        return Ok(());
    };
    running::change(transaction, &current, Some(row.target.cast_signed()), None).await
}
