//! The status of a rollout, and the plan of a rollout that would start now.

use std::collections::HashMap;

use deploy_rollout::{Host, Outcome, Standing, Status, failed};
use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::command::Rolling;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::rollouts::{OpenedWave, RolloutRow};
use crate::error::{Error, Result};
use crate::registry::Registry;

/// A rollout, in the form of its JSON document. Later versions may add fields, but never remove
/// fields.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutStatus {
    /// The number of the rollout.
    pub number: u64,
    /// The configuration.
    pub configuration: String,
    /// The status as one word.
    pub status: &'static str,
    /// Why the rollout is paused or has halted; empty otherwise.
    pub why: String,
    /// Since when the rollout has this status.
    pub since: Timestamp,
    /// The number of the state that was current when the rollout started.
    pub base: u64,
    /// The number of the state that the rollout brings to the hosts.
    pub target: u64,
    /// The id of the target.
    pub target_hash: Digest,
    /// The number of the open wave, from 1; 0 before the first wave.
    pub wave: u32,
    /// The waves. A wave that has not opened yet has no number of hosts.
    pub waves: Vec<WaveStatus>,
    /// When the soak of the open wave ends; `None` if no soak is in progress.
    pub soak_ends: Option<Timestamp>,
    /// The number of failed hosts that count against the budget.
    pub failed: u64,
    /// How many hosts may fail before the rollout halts.
    pub budget: u64,
    /// The number of hosts that run the target and are healthy.
    pub good: u64,
    /// The number of hosts that waves have taken so far.
    pub taken: u64,
    /// The number of hosts that no wave has taken.
    pub waiting: u64,
    /// The hosts that waves have taken, sorted by wave and name.
    pub hosts: Vec<RolloutHost>,
    /// Who started the rollout.
    pub who: String,
    /// When the rollout started.
    pub started: Timestamp,
    /// When the rollout ended.
    pub ended: Option<Timestamp>,
}

/// A wave of a rollout.
#[derive(Debug, Clone, Serialize)]
pub struct WaveStatus {
    /// The selector of the wave, such as `10%`.
    pub selector: String,
    /// The number of hosts, once the wave has opened.
    pub hosts: Option<u64>,
    /// When the wave opened.
    pub opened: Option<Timestamp>,
}

/// A host that a wave has taken.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutHost {
    /// The host.
    pub host: String,
    /// The group of the host.
    pub group: String,
    /// The number of the wave that took the host.
    pub wave: u32,
    /// The result as one word: `offered`, `working`, `good`, `failed`, or `held` if an operator
    /// holds the host.
    pub result: &'static str,
    /// Why the host failed; empty otherwise.
    pub why: String,
}

/// What a rollout would do, in the form of its JSON document.
#[derive(Debug, Clone, Serialize)]
pub struct PlanDocument {
    /// The configuration.
    pub configuration: String,
    /// Bytes that a host without any of the new layers downloads.
    pub bytes: u64,
    /// The waves with the names of their hosts.
    pub waves: Vec<PlanWave>,
    /// How many hosts may fail before the rollout halts.
    pub budget: u64,
    /// Why the rollout would halt immediately; empty otherwise.
    pub halt: String,
    /// Hosts that are not connected.
    pub absent: Vec<String>,
    /// Hosts that an operator holds.
    pub held: Vec<String>,
    /// Hosts under whose name two agents report.
    pub duplicate: Vec<String>,
    /// Hosts that only poll, and that no wave takes.
    pub unknown: Vec<String>,
}

/// A planned wave.
#[derive(Debug, Clone, Serialize)]
pub struct PlanWave {
    /// The selector of the wave.
    pub selector: String,
    /// The hosts of the wave.
    pub hosts: Vec<String>,
}

impl Registry {
    /// The status of the rollout `number`. Without `number`, the status of the last rollout of the
    /// configuration.
    pub async fn rollout_status(
        &self,
        name: &ConfigurationName,
        number: Option<u64>,
    ) -> Result<RolloutStatus> {
        let none = || Error::NotFound(format!("configuration \"{name}\" has no such rollout"));
        let view = self.catalog.rollout(name, number).await?.ok_or_else(none)?;
        let hosts = self.rollout_hosts(&view, Timestamp::now()).hosts;
        Ok(status(&view.row, &view.waves, &hosts))
    }

    /// What a rollout of these versions would do.
    pub async fn planned(
        &self,
        name: &ConfigurationName,
        layers: &[(ComponentName, VersionName)],
        rolling: &Rolling,
    ) -> Result<PlanDocument> {
        let policy = self.catalog.policy_of(name, rolling).await?;
        let bytes = self.new_bytes(name, layers).await?;
        let (plan, found) = self.plan_rollout(name, &policy).await?;
        let names: HashMap<i64, &str> =
            found.hosts.iter().map(|host| (host.id, host.name.as_str())).collect();
        let of = |ids: &[i64]| -> Vec<String> {
            ids.iter().filter_map(|id| names.get(id)).map(|name| (*name).to_owned()).collect()
        };
        let wave = |wave: &deploy_rollout::PlannedWave| PlanWave {
            selector: wave.selector.clone(),
            hosts: of(&wave.hosts),
        };
        Ok(PlanDocument {
            configuration: name.to_string(),
            bytes,
            waves: plan.waves.iter().map(wave).collect(),
            budget: plan.budget,
            halt: plan.halt.clone().unwrap_or_default(),
            absent: of(&plan.absent),
            held: of(&plan.held),
            duplicate: of(&plan.duplicate),
            unknown: of(&plan.unknown),
        })
    }

    /// The bytes of those layers that the configuration does not have yet.
    async fn new_bytes(
        &self,
        name: &ConfigurationName,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<u64> {
        let current = self.catalog.configuration(name).await?;
        let mut bytes = 0;
        for (component, version) in layers {
            let layer = self.catalog.version(component, version).await?;
            if !current.layers().iter().any(|old| old.digest == layer.digest) {
                bytes += self.blobs().size(layer.digest).await?.unwrap_or(0);
            }
        }
        Ok(bytes)
    }
}

/// The status of a rollout with these opened waves and hosts.
pub(super) fn status(row: &RolloutRow, waves: &[OpenedWave], hosts: &[Host]) -> RolloutStatus {
    let rollout = &row.rollout;
    let mut taken: Vec<RolloutHost> = hosts.iter().filter_map(rollout_host).collect();
    taken.sort_by(|one, other| (one.wave, &one.host).cmp(&(other.wave, &other.host)));
    let soak_ends = rollout.soaking_since.filter(|_| rollout.status == Status::Running);
    let waves = rollout.policy.waves.selectors().iter().zip(1..).map(|(selector, number)| {
        let opened = waves.iter().find(|wave| wave.wave == number);
        WaveStatus {
            selector: selector.to_string(),
            hosts: opened.map(|wave| wave.hosts),
            opened: opened.map(|wave| wave.opened),
        }
    });
    RolloutStatus {
        number: row.number,
        configuration: row.configuration.to_string(),
        status: rollout.status.word(),
        why: rollout.status.why().unwrap_or_default().to_owned(),
        since: rollout.status_since,
        base: row.base,
        target: row.target,
        target_hash: row.target_id,
        wave: rollout.wave,
        waves: waves.collect(),
        soak_ends: soak_ends
            .map(|since| since.checked_add(rollout.policy.soak).unwrap_or(Timestamp::MAX)),
        failed: failed(hosts),
        budget: rollout.budget,
        good: taken.iter().filter(|host| host.result == "good").count() as u64,
        taken: taken.len() as u64,
        waiting: (hosts.len() - taken.len()) as u64,
        hosts: taken,
        who: row.who.clone(),
        started: row.started,
        ended: row.ended,
    }
}

fn rollout_host(host: &Host) -> Option<RolloutHost> {
    let member = host.member.as_ref()?;
    let (result, why) = match (&member.result, &host.standing) {
        _ if member.left => ("held", String::new()),
        (Some(Outcome::Good), _) => ("good", String::new()),
        (Some(Outcome::Failed(failure)), _) => ("failed", failure.to_string()),
        (None, Standing::Base | Standing::BaseUnhealthy) => ("offered", String::new()),
        (None, _) => ("working", String::new()),
    };
    Some(RolloutHost {
        host: host.name.to_string(),
        group: host.group.clone(),
        wave: member.wave,
        result,
        why,
    })
}
