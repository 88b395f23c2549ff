//! Executes the commands that operators give to a rollout, or refuses them with a reason.

use jiff::Timestamp;

use crate::census::Census;
use crate::duration_words::hosts_in_words;
use crate::limit::Limit;
use crate::rollout_change::{Change, apply_all};
use crate::rollout_host::{Host, count, failed};
use crate::rollout_state::{Rollout, Status};
use crate::step::step;

/// A command to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Pauses a running rollout.
    Pause {
        /// The operator's reason.
        why: String,
    },
    /// Continues a rollout that is paused or has halted.
    Resume {
        /// A new limit on failed hosts.
        max_failed: Option<Limit>,
        /// A new limit on absent hosts.
        max_absent: Option<Limit>,
    },
    /// Aborts the rollout: all hosts get the base again.
    Abort,
    /// Ends the soak of the open wave.
    SkipSoak,
    /// Sets the result of a host. Reports of the host do not change this result.
    Mark {
        /// The host.
        host: i64,
        /// True if the host counts as good, false if it counts as failed.
        good: bool,
    },
    /// Gives a failed host another try.
    Retry {
        /// The host.
        host: i64,
    },
    /// Ends the rollout, because another change of the configuration replaces the rollout.
    Supersede,
}

/// The reason why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The status does not allow the command.
    #[error("cannot {command}: the rollout {}; {}", described(.status), possible(.status))]
    Status {
        /// The command, as a verb.
        command: &'static str,
        /// The status.
        status: Status,
    },
    /// More hosts have failed than the budget allows.
    #[error(
        "cannot resume: {} failed, and at most {budget} may fail; resume with \
         -max-failed {failed} or more, retry or mark a failed host, or abort",
        hosts_in_words(*.failed)
    )]
    OverBudget {
        /// The number of failed hosts.
        failed: u64,
        /// The number of hosts that may fail.
        budget: u64,
    },
    /// The rollout would stop again immediately.
    #[error("cannot resume, because the rollout would stop again immediately: {why}; {advice}")]
    StopsAgain {
        /// The reason why the rollout would stop.
        why: String,
        /// The actions that remain for the operator.
        advice: &'static str,
    },
    /// No wave is soaking.
    #[error(
        "cannot skip the soak: wave {wave} is not soaking; it has {} without a result",
        hosts_in_words(*.pending)
    )]
    NotSoaking {
        /// The number of the open wave.
        wave: u32,
        /// The number of hosts without a result.
        pending: u64,
    },
    /// No wave has taken the host.
    #[error(
        "cannot {command} host {host}: no wave has taken it; a wave of a new rollout can name it: \
         -waves @{host}"
    )]
    NotMember {
        /// The command, as a verb.
        command: &'static str,
        /// The name of the host, or its number if there is no such host.
        host: String,
    },
    /// The host has not failed.
    #[error("cannot retry host {host}: it has not failed in this rollout")]
    NotFailed {
        /// The name of the host.
        host: String,
    },
}

fn described(status: &Status) -> String {
    match status {
        Status::Running => "is running".to_owned(),
        Status::Paused { why } if why.is_empty() => "is paused".to_owned(),
        Status::Paused { why } => format!("is paused ({why})"),
        Status::Halted { why } => format!("has halted ({why})"),
        Status::Aborted => "is aborted".to_owned(),
        Status::Superseded => "is superseded by another change".to_owned(),
        Status::Succeeded => "has succeeded".to_owned(),
    }
}

fn possible(status: &Status) -> &'static str {
    match status {
        Status::Running => "you can pause or abort it",
        Status::Paused { .. } | Status::Halted { .. } => "you can resume or abort it",
        _ => "start another rollout",
    }
}

/// Returns the changes that a command makes. The caller writes these changes in one transaction,
/// and should then make a step immediately.
pub fn command(
    rollout: &Rollout,
    hosts: &[Host],
    command: &Command,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let status = &rollout.status;
    let is_running = *status == Status::Running;
    let is_allowed = match command {
        Command::Pause { .. } | Command::SkipSoak => is_running,
        Command::Resume { .. } => !is_running && !status.is_final(),
        _ => !status.is_final(),
    };
    if !is_allowed {
        return Err(Refusal::Status { command: verb(command), status: status.clone() });
    }
    let change = match command {
        Command::Pause { why } => Change::Pause { why: why.clone() },
        Command::Resume { max_failed, max_absent } => {
            resume(rollout, hosts, *max_failed, *max_absent, now)?
        }
        Command::Abort => Change::Abort,
        Command::SkipSoak => skip_soak(rollout, hosts)?,
        Command::Mark { host, good } => {
            member(hosts, *host, verb(command))?;
            Change::Mark { host: *host, good: *good }
        }
        Command::Retry { host } => {
            let found = member(hosts, *host, verb(command))?;
            if !found.has_failed() {
                return Err(Refusal::NotFailed { host: found.name.to_string() });
            }
            Change::Retry { host: *host }
        }
        Command::Supersede => Change::Supersede,
    };
    Ok(vec![change])
}

fn verb(command: &Command) -> &'static str {
    match command {
        Command::Pause { .. } => "pause",
        Command::Resume { .. } => "resume",
        Command::Abort => "abort",
        Command::SkipSoak => "skip the soak",
        Command::Mark { .. } => "mark",
        Command::Retry { .. } => "retry",
        Command::Supersede => "supersede",
    }
}

fn member<'a>(hosts: &'a [Host], id: i64, command: &'static str) -> Result<&'a Host, Refusal> {
    let host = hosts.iter().find(|host| host.id == id);
    let name = host.map_or_else(|| id.to_string(), |host| host.name.to_string());
    host.filter(|host| host.member.is_some()).ok_or(Refusal::NotMember { command, host: name })
}

fn skip_soak(rollout: &Rollout, hosts: &[Host]) -> Result<Change, Refusal> {
    let is_pending = |host: &Host| host.counted_member().is_some_and(|it| it.result.is_none());
    let pending = count(hosts, is_pending);
    match rollout.soaking_since {
        Some(_) if pending == 0 => Ok(Change::SkipSoak),
        _ => Err(Refusal::NotSoaking { wave: rollout.wave, pending }),
    }
}

fn resume(
    rollout: &Rollout,
    hosts: &[Host],
    max_failed: Option<Limit>,
    max_absent: Option<Limit>,
    now: Timestamp,
) -> Result<Change, Refusal> {
    let budget = max_failed.map_or(rollout.budget, |limit| {
        limit.of(Census::new(&rollout.policy, hosts, now).counting)
    });
    let failed = failed(hosts);
    if failed > budget {
        return Err(Refusal::OverBudget { failed, budget });
    }
    let change = Change::Resume { max_failed, max_absent, budget };
    let (mut then, mut hosts) = (rollout.clone(), hosts.to_vec());
    apply_all(&mut then, &mut hosts, std::slice::from_ref(&change), now);
    for after in step(&then, &hosts, now).changes {
        let (why, advice) = match after {
            Change::Halt { why } => {
                (why, "retry, mark or hold hosts, give a larger -max-absent, or abort")
            }
            Change::Pause { why } => (why, "stop all agents but one, hold the host, or abort"),
            _ => continue,
        };
        return Err(Refusal::StopsAgain { why, advice });
    }
    Ok(change)
}

#[cfg(test)]
mod tests;
