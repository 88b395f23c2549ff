//! Writes the reports of agents to the catalogue. One transaction writes a whole batch of reports,
//! so that the registry keeps up when a large fleet reports at the same time. An agent repeats a
//! report until the registry has acknowledged the report. The registry applies a repeated report
//! only once.

use deploy_store::{ConfigurationName, escape};
use deploy_wire::fleet::{HostName, Phase, Reason, Report};
use jiff::Timestamp;

use super::agents::{self, AgentRow};
use super::events::{self, Kind};
use super::hosts::{self, HostRow};
use super::running::{self, Current};
use super::{attempts, outputs};
use crate::catalog::rollouts;
use crate::catalog::tx::{query, query_scalar};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Result, nanoseconds};
use crate::error::Error;

/// Maximum number of configurations on one host.
const MAX_AGENTS_OF_HOST: i64 = 200;

/// A report that the registry has received, and its sender.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The fingerprint of the sender's key.
    pub key: String,
    /// The host that the report is about.
    pub host: HostName,
    /// The configuration that the report is about.
    pub name: ConfigurationName,
    /// The random id of the agent's directory. Empty if a script sent the report.
    pub instance: String,
    /// The report. If the report has the number 0, the registry gives the report the agent's next
    /// number.
    pub report: Report,
}

/// What the registry did with a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The registry has written the report to the disk.
    New {
        /// The number of the host.
        host: i64,
    },
    /// The report changed nothing, because this report or a later report was on the disk already.
    Old,
    /// The registry refused the report. The text says why.
    Refused(String),
}

impl Catalog {
    /// Applies the reports in order, in one transaction. A refused report does not affect the
    /// others.
    pub async fn apply_reports(&self, batch: &[Sent], now: Timestamp) -> Result<Vec<Applied>> {
        let mut transaction = self.write_tx().await?;
        transaction.writes_reports();
        let now = self.time_of_change(&mut transaction, now).await?;
        let mut applied = Vec::with_capacity(batch.len());
        for sent in batch {
            applied.push(match apply(&mut transaction, sent, now).await {
                Ok(applied) => applied,
                Err(Error::OverLimit(why)) => Applied::Refused(why),
                Err(err) => return Err(err),
            });
        }
        transaction.commit().await?;
        Ok(applied)
    }

    /// What the registry knows about an agent that begins a watch: its host and its last report.
    /// `None` if the registry does not know the host. If the host belongs to another key, the inner
    /// `Err` says why the registry refuses the agent.
    pub async fn known_agent(
        &self,
        key: &str,
        host: &HostName,
        name: &ConfigurationName,
    ) -> Result<Result<Option<(HostRow, Option<AgentRow>)>, String>> {
        let mut transaction = self.read_tx().await?;
        let Some(host) = hosts::find(&mut transaction, host.as_str()).await? else {
            return Ok(Ok(None));
        };
        if let Some(why) = hosts::foreign(&host, key) {
            return Ok(Err(why));
        }
        let agent = agents::find(&mut transaction, name, host.number).await?;
        Ok(Ok(Some((host, agent))))
    }
}

async fn apply(transaction: &mut WriteTx, sent: &Sent, now: Timestamp) -> Result<Applied> {
    let Some(current) = running::current(transaction, &sent.name).await? else {
        let name = escape(sent.name.as_str());
        return Ok(Applied::Refused(format!("there is no configuration \"{name}\"")));
    };
    let found = hosts::find(transaction, sent.host.as_str()).await?;
    if let Some(why) = found.as_ref().and_then(|host| hosts::foreign(host, &sent.key)) {
        return Ok(Applied::Refused(why));
    }
    let host = match &found {
        Some(host) => host.number,
        None => hosts::add(transaction, sent.host.as_str(), &sent.key, now).await?,
    };
    let before = agents::find(transaction, &sent.name, host).await?;
    let last_seq = before.as_ref().map_or(0, |before| before.report.seq);
    let mut report = sent.report.clone();
    if report.seq == 0 {
        report.seq = last_seq + 1;
        // A script reports the id of the state that it deployed, without a revision. The report
        // confirms a revision only if that state is current, or is the target of the active
        // rollout.
        if report.wants.is_some_and(|id| id.to_string() == current.hash) {
            report.revision = current.revision;
        }
        let rollout = rollouts::active_of(transaction, &sent.name).await?;
        if let Some(rollout) = rollout.filter(|it| report.wants == Some(it.target_id)) {
            report.revision = rollout.revision;
        }
    }
    if report.seq <= last_seq {
        return Ok(Applied::Old);
    }
    if before.is_none() {
        check_room(transaction, host).await?;
    }
    let row = Row { sent, host, held: found.is_some_and(|host| host.hold.is_some()), now };
    row.put(transaction, &current, before.as_ref(), &report).await?;
    Ok(Applied::New { host })
}

async fn check_room(transaction: &mut WriteTx, host: i64) -> Result<()> {
    let agents: i64 = query_scalar("SELECT COUNT(*) FROM agents WHERE host = $1")
        .bind(host)
        .fetch_one(&mut *transaction)
        .await?;
    if agents >= MAX_AGENTS_OF_HOST {
        let text = format!(
            "the host has {agents} configurations already; the maximum is {MAX_AGENTS_OF_HOST}"
        );
        return Err(Error::OverLimit(text));
    }
    Ok(())
}

/// A report, the number of its host, whether this host is held, and when the report arrived.
struct Row<'a> {
    sent: &'a Sent,
    host: i64,
    held: bool,
    now: Timestamp,
}

impl Row<'_> {
    async fn put(
        &self,
        transaction: &mut WriteTx,
        current: &Current,
        before: Option<&AgentRow>,
        report: &Report,
    ) -> Result<()> {
        let Self { sent, host, now, .. } = *self;
        let output = outputs::put(transaction, &report.output).await?;
        // A killed agent may not have recorded the number of its last deploy, and may report the
        // result of this deploy under a lower number. So a lower number does not mean another
        // deploy.
        let is_next = before.is_none_or(|before| {
            report.attempt > before.report.attempt
                || before.instance != sent.instance
                || before.report.wants != report.wants
        });
        let tried = before.map_or(0, |before| before.tried) + i64::from(is_next);
        let place = (&sent.name, host, tried);
        attempts::put(transaction, place, report, output.as_deref(), now).await?;
        let state = self.change_state(transaction, current, before, report).await?;
        let same_phase = |before: &&AgentRow| !is_next && before.report.phase == report.phase;
        let since = before.filter(same_phase).map_or(now, |before| before.since);
        query(
            "INSERT INTO agents (configuration, host, instance, seq, revision, attempt, tried, \
             phase, runs, wants, reason, message, exit_code, output, steps, boot, version, link, \
             since, reported, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $15, $16, $17, $18, $19, $20, $21) \
             ON CONFLICT (configuration, host) DO UPDATE SET instance = $3, seq = $4, \
             revision = $5, attempt = $6, tried = $7, phase = $8, runs = $9, wants = $10, \
             reason = $11, message = $12, exit_code = $13, output = $14, steps = $15, boot = $16, \
             version = $17, link = $18, since = $19, reported = $20, state = $21",
        )
        .bind(sent.name.as_str())
        .bind(host)
        .bind(&sent.instance)
        .bind(i64::try_from(report.seq).unwrap_or(i64::MAX))
        .bind(i64::try_from(report.revision).unwrap_or(0))
        .bind(i64::try_from(report.attempt).unwrap_or(0))
        .bind(tried)
        .bind(report.phase.word())
        .bind(report.runs.map(|id| id.to_string()))
        .bind(report.wants.map(|id| id.to_string()))
        .bind(report.reason.map(Reason::word))
        .bind(&report.message)
        .bind(report.exit_code)
        .bind(output.as_deref())
        .bind(serde_json::to_string(&report.steps).unwrap_or_default())
        .bind(&report.boot)
        .bind(&report.version)
        .bind(&report.link)
        .bind(nanoseconds(since))
        .bind(nanoseconds(now))
        .bind(state)
        .execute(&mut *transaction)
        .await?;
        self.tell(transaction, before, report, is_next).await
    }

    /// Finds the state that the agent runs now. Subtracts the agent from the count of its previous
    /// state, and adds the agent to the count of the state that it runs now.
    async fn change_state(
        &self,
        transaction: &mut WriteTx,
        current: &Current,
        before: Option<&AgentRow>,
        report: &Report,
    ) -> Result<Option<i64>> {
        let old = before.and_then(|before| before.state);
        let same = old.filter(|_| before.is_some_and(|before| before.report.runs == report.runs));
        let state = match (report.runs, same) {
            (_, Some(state)) => Some(state),
            (Some(id), None) => running::find(transaction, current, id).await?,
            (None, None) => None,
        };
        running::change(transaction, current, old, state).await?;
        Ok(state)
    }

    /// Records an event if the report says that a deploy has ended, or that the agent will not
    /// retry the deploy. Further reports of the same deploy in the same phase add no event.
    async fn tell(
        &self,
        transaction: &mut WriteTx,
        before: Option<&AgentRow>,
        report: &Report,
        is_next: bool,
    ) -> Result<()> {
        let kind = match report.phase {
            Phase::Healthy => Kind::Healthy,
            Phase::Failed => Kind::Failed,
            Phase::RolledBack => Kind::RolledBack,
            // If an operator holds the host, an earlier event has reported the hold.
            Phase::Held if !self.held => Kind::Held,
            _ => return Ok(()),
        };
        if !is_next && before.is_some_and(|before| before.report.phase == report.phase) {
            return Ok(());
        }
        let (name, host) = (self.sent.name.as_str(), self.sent.host.as_str());
        events::add(transaction, self.now, kind, name, host, &report.message).await
    }
}
