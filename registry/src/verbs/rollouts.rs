//! Steers rollouts: reads the data for a decision, lets the crate `deploy-rollout` decide, and
//! writes the decision.

use deploy_rollout::{Change as Step, Command, Host, Rollout, Selector, hosts_in_words, step};
use deploy_store::{ConfigurationName, escape};
use deploy_wire::command::Rolling;
use jiff::Timestamp;

use super::rollout_census::RolloutHosts;
use crate::catalog::Change;
use crate::catalog::rollouts::{RolloutView, Steps};
use crate::error::{Error, Result};
use crate::fleet::rollout_hosts::POLL_DUE;
use crate::registry::Registry;

/// Maximum number of attempts to decide on a step and to write the step. An attempt fails if the
/// rollout changes before the step is written.
const TRIES: usize = 20;
/// Maximum number of changes that an entry of the audit trail lists.
const SOME: usize = 10;
/// Maximum length of the reason of a failure in the audit trail, in characters.
const LONGEST_WHY: usize = 200;

impl Registry {
    /// Reads the active rollouts, and offers their targets to their members.
    pub async fn load_rollouts(&self) -> Result<()> {
        for name in self.catalog.rolling().await? {
            self.show_last_rollout(&name).await?;
        }
        Ok(())
    }

    /// Reads the last rollout of a configuration. If the rollout is active, offers its target to
    /// its members.
    async fn show_last_rollout(&self, name: &ConfigurationName) -> Result<Option<RolloutView>> {
        // If two tasks run this function, the lock keeps their order: the task that reads later
        // must also offer the target later.
        let _reading = self.fleet.showing.lock().await;
        let changes = self.catalog.changes.subscribe(name);
        let view = self.catalog.rollout(name, None).await?;
        self.fleet.show_rollout(name, view.as_ref(), changes).await?;
        Ok(view)
    }

    /// Makes the due steps of a configuration's rollout. Returns the latest time for the next call;
    /// `None` if only an operator or a report can change the rollout.
    pub async fn step_rollout(&self, name: &ConfigurationName) -> Result<Option<Timestamp>> {
        for _ in 0..TRIES {
            let view = self.show_last_rollout(name).await?;
            let Some(view) = view.filter(|view| view.row.ended.is_none()) else { return Ok(None) };
            let now = Timestamp::now();
            let found = self.rollout_hosts(&view, now);
            if let Some(time) = self.wait_for_polls(&view, &found, now).await? {
                return Ok(Some(time));
            }
            let step = step(&view.row.rollout, &found.hosts, now);
            if step.changes.is_empty() {
                return Ok(step.next);
            }
            let own = own(&view, &found.hosts, &step.changes, now);
            match self.write_steps(&view, found, &step.changes, &own).await {
                Err(Error::Conflict(_)) | Ok(_) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Some(Timestamp::now()))
    }

    /// Makes the due steps after a change that is already written. An error is only logged: the
    /// change was made, and the driver of the rollouts tries the steps again.
    pub async fn try_step(&self, name: &ConfigurationName) {
        if let Err(err) = self.step_rollout(name).await {
            let name = name.as_str();
            tracing::warn!(event = "rollout_error", name, "cannot advance the rollout yet: {err}");
        }
    }

    /// After a start of the registry, agents that only poll are unknown until they have polled. If
    /// such agents may take part in the rollout, the first wave waits for their polls. Returns the
    /// end of the wait; `None` if no wait is necessary.
    async fn wait_for_polls(
        &self,
        view: &RolloutView,
        found: &RolloutHosts,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let known_at = self.fleet.started.checked_add(POLL_DUE).unwrap_or(Timestamp::MAX);
        let policy = &view.row.rollout.policy;
        let names_hosts = |selector: &Selector| matches!(selector, Selector::Hosts(_));
        let may_have_units = policy.allow_unknown
            || found.hosts.is_empty()
            || policy.waves.selectors().iter().any(names_hosts);
        if now >= known_at || view.row.rollout.wave > 0 || !may_have_units {
            return Ok(None);
        }
        // There is no wait if the base was made after the registry's start, as in a new
        // configuration, which had no agents before the start.
        let base = self.catalog.state(&view.row.configuration, view.row.base).await?;
        Ok((base.modified() < self.fleet.started).then_some(known_at))
    }

    /// Runs the command of an operator on the active rollout of a configuration, and makes the
    /// steps that follow.
    pub async fn command_rollout(
        &self,
        name: &ConfigurationName,
        command: impl Fn(&RolloutView, &[Host]) -> Result<Command>,
        change: &Change,
    ) -> Result<Rollout> {
        for _ in 0..TRIES {
            let view = self.catalog.rollout(name, None).await?;
            let view = view.ok_or_else(|| no_rollout(name))?;
            let found = self.rollout_hosts(&view, change.now);
            let wanted = command(&view, &found.hosts)?;
            let changes =
                deploy_rollout::command(&view.row.rollout, &found.hosts, &wanted, change.now);
            let changes = changes.map_err(|why| Error::Conflict(escape(&why.to_string())))?;
            match self.write_steps(&view, found, &changes, change).await {
                // Another task has changed the rollout in the meantime.
                Err(Error::Conflict(_)) => {}
                Err(err) => return Err(err),
                Ok(rollout) => {
                    self.try_step(name).await;
                    return Ok(rollout);
                }
            }
        }
        Err(Error::Busy(format!(
            "the rollout of \"{name}\" changed during each attempt; try again"
        )))
    }

    async fn write_steps(
        &self,
        view: &RolloutView,
        found: RolloutHosts,
        changes: &[Step],
        change: &Change,
    ) -> Result<Rollout> {
        let is_audited = changes.iter().any(is_notable);
        let RolloutHosts { hosts, units } = found;
        let steps = Steps { row: &view.row, changes, hosts, units: &units, change, is_audited };
        self.catalog.advance(steps).await
    }
}

fn no_rollout(name: &ConfigurationName) -> Error {
    Error::NotFound(format!("configuration \"{name}\" has no rollout; see rollout list"))
}

/// Whether the audit trail gets an entry for the step.
fn is_notable(step: &Step) -> bool {
    !matches!(step, Step::Healthy { .. } | Step::NotHealthy { .. } | Step::Good { .. })
}

/// The audit data of a step that the registry makes on its own.
fn own(view: &RolloutView, hosts: &[Host], changes: &[Step], now: Timestamp) -> Change {
    let own = format!("rollout {}", view.row.number);
    let notable: Vec<&Step> = changes.iter().filter(|step| is_notable(step)).collect();
    let mut what: Vec<String> =
        notable.iter().take(SOME).map(|step| described(step, hosts)).collect();
    if let Some(more) = notable.len().checked_sub(SOME).filter(|more| *more > 0) {
        what.push(format!("and {more} more"));
    }
    Change {
        user: own.clone(),
        key: own,
        address: String::new(),
        command: format!("rollout -name={} {}", view.row.configuration, what.join(", ")),
        now,
        overrides: false,
        rolling: Rolling::default(),
    }
}

fn described(step: &Step, hosts: &[Host]) -> String {
    let name = |id: &i64| {
        let host = hosts.iter().find(|host| host.id == *id);
        host.map_or_else(|| id.to_string(), |host| host.name.to_string())
    };
    match step {
        Step::OpenWave { wave, hosts, .. } => {
            format!("wave {wave} opens with {}", hosts_in_words(hosts.len() as u64))
        }
        Step::Fail { host, failure } => {
            let why: String = failure.to_string().chars().take(LONGEST_WHY).collect();
            format!("{} failed: {why}", name(host))
        }
        Step::BeginSoak => "the soak begins".to_owned(),
        Step::Halt { why } => format!("halts: {why}"),
        Step::Pause { why } => format!("pauses: {why}"),
        Step::Succeed => "succeeds".to_owned(),
        Step::AwaitHosts => "waits for hosts that have just disconnected".to_owned(),
        Step::Leave { host } => format!("{} is held", name(host)),
        Step::Return { host } => format!("{} is released", name(host)),
        other => format!("{other:?}"),
    }
}
