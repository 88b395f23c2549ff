//! Reads a rollout with its fleet at one moment, and writes its next step.

use std::collections::HashMap;

use deploy_rollout::{
    Change as Step, Host, Member, Outcome, Rollout, Taken, apply_all, hosts_in_words,
};
use deploy_store::ConfigurationName;
use jiff::Timestamp;

use super::rollout_members::OpenedWave;
use super::rollout_rows::{self, RolloutRow};
use super::{rollout_end, rollout_members};
use crate::catalog::audit::{Change, record};
use crate::catalog::fleet::events::{self, Kind};
use crate::catalog::fleet::fleet_snapshot::{self, FleetSnapshot, Scope};
use crate::catalog::fleet::{agents, hosts};
use crate::catalog::positions::raise_shown;
use crate::catalog::tx::{Tx, query};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Result, nanoseconds};

/// A rollout, its members and the fleet, at one moment.
#[derive(Debug, Clone)]
pub struct RolloutView {
    /// The rollout.
    pub row: RolloutRow,
    /// The hosts that the waves have taken, by number.
    pub members: HashMap<i64, Member>,
    /// The waves that were opened: number, selector, number of hosts, and time.
    pub waves: Vec<OpenedWave>,
    /// The current state and the agents of the configuration, and all hosts.
    pub fleet: FleetSnapshot,
}

/// An active rollout, without the hosts of the fleet.
#[derive(Debug, Clone)]
pub struct ActiveRollout {
    /// The rollout.
    pub row: RolloutRow,
    /// The hosts that the waves have taken, by number.
    pub members: HashMap<i64, Member>,
    /// The waves that were opened.
    pub waves: Vec<OpenedWave>,
}

impl RolloutView {
    /// The names of the hosts that have failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        let has_failed = |member: &Member| matches!(member.result, Some(Outcome::Failed(_)));
        let failed = self.members.iter().filter(move |(_, member)| has_failed(member));
        failed.filter_map(|(host, _)| self.fleet.hosts.get(host)).map(|host| host.name.as_str())
    }
}

/// A host that the catalogue does not know yet, because the host only polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUnit {
    /// A negative number that stands for the host in the changes of the step.
    pub id: i64,
    /// The host's name, which is the host's address.
    pub name: String,
    /// The fingerprint of the host's key.
    pub key: String,
}

/// The input of [`Catalog::advance`].
pub struct Steps<'a> {
    /// The rollout that the decision is based on.
    pub row: &'a RolloutRow,
    /// The changes of the step.
    pub changes: &'a [Step],
    /// The hosts that the decision is based on.
    pub hosts: Vec<Host>,
    /// The hosts in `hosts` that the catalogue does not know yet.
    pub units: &'a [NewUnit],
    /// The author, the command and the time of the step.
    pub change: &'a Change,
    /// Whether to add an entry for the step to the audit trail.
    pub is_audited: bool,
}

impl Catalog {
    /// The rollout `number` of a configuration; without `number`, the configuration's last rollout.
    pub async fn rollout(
        &self,
        name: &ConfigurationName,
        number: Option<u64>,
    ) -> Result<Option<RolloutView>> {
        let mut transaction = self.scan_tx().await?;
        let Some(row) = rollout_rows::find(&mut transaction, name, number).await? else {
            return Ok(None);
        };
        let members = rollout_members::members(&mut transaction, row.number).await?;
        let waves = rollout_members::waves(&mut transaction, row.number).await?;
        let scope = Scope { name: Some(name), host: None };
        let fleet = fleet_snapshot::read(&mut transaction, scope).await?;
        Ok(Some(RolloutView { row, members, waves, fleet }))
    }

    /// Writes the changes of one step in one transaction, and returns the rollout after the step.
    /// Fails with [`crate::error::Error::Conflict`] if the rollout has changed since its row was
    /// read.
    pub async fn advance(&self, steps: Steps<'_>) -> Result<Rollout> {
        let Steps { row, changes, mut hosts, units, change, is_audited } = steps;
        let mut transaction = self.write_tx().await?;
        if is_audited {
            record(&mut transaction, change, 0, "").await?;
        }
        let changes = add_units(&mut transaction, row, changes, &mut hosts, units, change).await?;
        let before: HashMap<i64, Option<Member>> =
            hosts.iter().map(|host| (host.id, host.member.clone())).collect();
        let mut rollout = row.rollout.clone();
        // The time of each report of a member is compared with the time of its offer.
        let now = self.time_of_change(&mut transaction, change.now).await?;
        apply_all(&mut rollout, &mut hosts, &changes, now);
        rollout_rows::write(&mut transaction, row, &rollout, now).await?;
        for host in &hosts {
            let is_new = before.get(&host.id) != Some(&host.member);
            if let Some(member) = host.member.as_ref().filter(|_| is_new) {
                rollout_members::put(&mut transaction, row.number, host.id, member).await?;
            }
        }
        for step in &changes {
            finish_step(&mut transaction, row, &rollout, step, &hosts, now).await?;
        }
        transaction.moves_rollout();
        if changes.iter().any(|step| matches!(step, Step::OpenWave { .. })) {
            raise_shown(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(rollout)
    }
}

/// Adds rows for the hosts in `units` that a wave takes, and so gives these hosts their numbers in
/// the catalogue. Returns the changes, in which these numbers replace the negative numbers.
async fn add_units(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    changes: &[Step],
    known: &mut [Host],
    units: &[NewUnit],
    change: &Change,
) -> Result<Vec<Step>> {
    let mut changes = changes.to_vec();
    for step in &mut changes {
        let Step::OpenWave { hosts: taken, .. } = step else { continue };
        for Taken { host, .. } in taken {
            let Some(unit) = units.iter().find(|unit| unit.id == *host) else { continue };
            let number = match hosts::find(transaction, &unit.name).await? {
                Some(row) => row.number,
                None => hosts::add(transaction, &unit.name, &unit.key, change.now).await?,
            };
            agents::add_unknown(transaction, &row.configuration, number, change.now).await?;
            if let Some(known) = known.iter_mut().find(|known| known.id == *host) {
                known.id = number;
            }
            *host = number;
        }
    }
    Ok(changes)
}

/// Writes the other effects of a change: the row of an opened wave, a new current state, and the
/// event. The caller writes the rows of the rollout and of its members.
async fn finish_step(
    transaction: &mut WriteTx,
    row: &RolloutRow,
    rollout: &Rollout,
    step: &Step,
    hosts: &[Host],
    now: Timestamp,
) -> Result<()> {
    let RolloutRow { number, configuration, .. } = row;
    let about = |text: &str| format!("rollout {number}{text}");
    let name_of = |id: i64| {
        hosts.iter().find(|host| host.id == id).map_or("", |host| host.name.as_str()).to_owned()
    };
    let (kind, host, text) = match step {
        Step::OpenWave { wave, hosts: taken, .. } => {
            let selectors = rollout.policy.waves.selectors();
            let place = usize::try_from(*wave).unwrap_or(usize::MAX).saturating_sub(1);
            let selector = selectors.get(place).map(ToString::to_string).unwrap_or_default();
            rollout_members::put_wave(transaction, *number, *wave, &selector, taken.len(), now)
                .await?;
            let (all, taken) = (selectors.len(), hosts_in_words(taken.len() as u64));
            let text = about(&format!(": wave {wave} of {all} ({selector}): {taken}"));
            (Kind::RolloutWave, String::new(), text)
        }
        Step::Fail { host, failure } => {
            (Kind::RolloutFailed, name_of(*host), about(&format!(": {failure}")))
        }
        Step::Mark { host, good: false } => {
            (Kind::RolloutFailed, name_of(*host), about(": marked as failed"))
        }
        Step::Pause { why } if why.is_empty() => (Kind::RolloutPaused, String::new(), about("")),
        Step::Pause { why } => (Kind::RolloutPaused, String::new(), about(&format!(": {why}"))),
        Step::Halt { why } => (Kind::RolloutHalted, String::new(), about(&format!(": {why}"))),
        Step::Resume { .. } => (Kind::RolloutResumed, String::new(), about("")),
        Step::Abort => {
            rollout_end::back_to_base(transaction, row).await?;
            (Kind::RolloutAborted, String::new(), about(""))
        }
        Step::Supersede => {
            rollout_end::back_to_base(transaction, row).await?;
            (Kind::RolloutSuperseded, String::new(), about(""))
        }
        Step::Succeed => {
            rollout_end::make_current(transaction, row, now).await?;
            (Kind::RolloutSucceeded, String::new(), about(""))
        }
        _ => return Ok(()),
    };
    events::add(transaction, now, kind, configuration.as_str(), &host, &text).await
}

/// The active rollouts, by the name of the configuration. With `name`, only the rollout of this
/// configuration.
pub async fn active(
    transaction: &mut Tx,
    name: Option<&ConfigurationName>,
) -> Result<HashMap<String, ActiveRollout>> {
    let mut rollouts = HashMap::new();
    for row in rollout_rows::all_active(transaction, name).await? {
        let members = rollout_members::members(transaction, row.number).await?;
        let waves = rollout_members::waves(transaction, row.number).await?;
        let name = row.configuration.to_string();
        rollouts.insert(name, ActiveRollout { row, members, waves });
    }
    Ok(rollouts)
}

/// Ends the active rollout of a deleted configuration, and removes the configuration's default
/// policy.
pub async fn forget(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    change: &Change,
) -> Result<()> {
    transaction.moves_rollout();
    raise_shown(transaction).await?;
    query(
        "UPDATE rollouts SET status = 'superseded', status_since = $2, ended = $2, \
         step = step + 1 WHERE configuration = $1 AND ended IS NULL",
    )
    .bind(name.as_str())
    .bind(nanoseconds(change.now))
    .execute(&mut *transaction)
    .await?;
    query("DELETE FROM policy_uses WHERE configuration = $1")
        .bind(name.as_str())
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
