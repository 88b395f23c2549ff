//! Exchanges contacts and polls with the other registries of a shared catalogue, through tables of
//! the catalogue. Without this exchange, a registry would count the agents of other registries as
//! away.

use std::sync::Weak;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use super::polls::Polls;
use super::presence::Presence;
use crate::catalog::Catalog;
use crate::error::Result;

/// The time between two exchanges.
const EVERY: Duration = Duration::from_secs(1);
/// How old a poll may be to count for anything.
const OLDEST_POLL: SignedDuration = SignedDuration::from_hours(24);

/// Reads all contacts and recent polls, at the start. Returns the mark for the next reading.
pub(super) async fn read_all(catalog: &Catalog, presence: &Presence, polls: &Polls) -> Result<i64> {
    if !catalog.is_shared() {
        return Ok(0);
    }
    let mark = catalog.contacts_mark().await?;
    let oldest = Timestamp::now().saturating_sub(OLDEST_POLL).unwrap_or(Timestamp::UNIX_EPOCH);
    polls.add(catalog.polls_since(i64::try_from(oldest.as_nanosecond()).unwrap_or(0)).await?);
    let contacts = catalog.contacts_since(0).await?;
    presence.set_remote(contacts, &catalog.registries().await?);
    Ok(mark)
}

/// Exchanges contacts and polls until the registry ends.
pub(super) async fn run(
    catalog: Catalog,
    (presence, polls): (Weak<Presence>, Weak<Polls>),
    mut mark: i64,
) {
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let (Some(presence), Some(polls)) = (presence.upgrade(), polls.upgrade()) else { return };
        if catalog.is_closed() {
            return;
        }
        if let Err(err) = tell(&catalog, &presence, &polls).await {
            tracing::debug!("cannot write the contacts for other registries yet: {err}");
            continue;
        }
        match read(&catalog, &presence, &polls, mark).await {
            Ok(next) => mark = next,
            Err(err) => tracing::debug!("cannot read the contacts of other registries: {err}"),
        }
    }
}

async fn read(catalog: &Catalog, presence: &Presence, polls: &Polls, mark: i64) -> Result<i64> {
    let next = catalog.contacts_mark().await?;
    polls.add(catalog.polls_since(mark).await?);
    let contacts = catalog.contacts_since(mark).await?;
    presence.set_remote(contacts, &catalog.registries().await?);
    Ok(next)
}

async fn tell(catalog: &Catalog, presence: &Presence, polls: &Polls) -> Result<()> {
    let (agents, rows): (Vec<_>, Vec<_>) = presence.take_untold().into_iter().unzip();
    if !rows.is_empty()
        && let Err(err) = catalog.write_contacts(&rows).await
    {
        presence.return_untold(agents.into_iter());
        return Err(err);
    }
    let rows = polls.take_untold();
    if rows.is_empty() {
        return Ok(());
    }
    let written = catalog.write_polls(&rows).await;
    if written.is_err() {
        polls.forget_told();
    }
    written
}
