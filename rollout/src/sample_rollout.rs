//! Simulates a small rollout for unit tests. The tests compare the changes of the rollout as text.

use std::time::Duration;

use jiff::Timestamp;

use crate::operator_command::{Command, Refusal, command};
use crate::policy::Policy;
use crate::rollout_change::{Change, apply_all};
use crate::rollout_host::{Host, Standing};
use crate::rollout_state::{Rollout, Status};
use crate::step::step;

/// A rollout, its hosts and the time.
pub struct Sample {
    pub rollout: Rollout,
    pub hosts: Vec<Host>,
    pub now: Timestamp,
}

/// A host that is connected and runs the base.
pub fn host(id: i64) -> Host {
    Host {
        id,
        name: format!("h{id}").parse().unwrap(),
        group: String::new(),
        standing: Standing::Base,
        away_since: None,
        duplicate: false,
        held: false,
        unknown: false,
        windows: None,
        member: None,
    }
}

/// The default policy with these waves.
pub fn policy(waves: &str) -> Policy {
    Policy { waves: waves.parse().unwrap(), ..Policy::default() }
}

impl Sample {
    /// A rollout over this number of hosts. The hosts have the numbers from 1 on.
    pub fn new(policy: Policy, hosts: i64) -> Self {
        let now = "2026-11-29T12:00:00Z".parse().unwrap();
        Self { rollout: Rollout::new(policy, now), hosts: (1..=hosts).map(host).collect(), now }
    }

    pub fn host(&mut self, id: i64) -> &mut Host {
        self.hosts.iter_mut().find(|host| host.id == id).unwrap()
    }

    /// Lets time pass, makes a step, and returns its changes as text. Checks that a second step
    /// with the same time has no changes.
    pub fn after(&mut self, seconds: u64) -> String {
        self.now += Duration::from_secs(seconds);
        let made = step(&self.rollout, &self.hosts, self.now);
        apply_all(&mut self.rollout, &mut self.hosts, &made.changes, self.now);
        let again = step(&self.rollout, &self.hosts, self.now);
        assert_eq!(again.changes, []);
        assert_eq!(again.next, made.next);
        assert!(made.next.is_none_or(|next| next > self.now));
        assert!(made.next.is_some() || self.rollout.status != Status::Running);
        described(&made.changes)
    }

    /// The seconds until the next step is due.
    pub fn next(&self) -> Option<i64> {
        let next = step(&self.rollout, &self.hosts, self.now).next?;
        Some(next.duration_since(self.now).as_secs())
    }

    /// Lets the hosts report this standing, and makes a step.
    pub fn report(&mut self, hosts: &[i64], standing: &Standing) -> String {
        for id in hosts {
            self.host(*id).standing = standing.clone();
        }
        self.after(0)
    }

    pub fn healthy(&mut self, hosts: &[i64]) -> String {
        self.report(hosts, &Standing::Healthy)
    }

    pub fn fail(&mut self, hosts: &[i64]) -> String {
        self.report(hosts, &Standing::Failed("exit 1".into()))
    }

    /// Disconnects the hosts.
    pub fn leave(&mut self, hosts: &[i64]) {
        for id in hosts {
            self.host(*id).away_since = Some(self.now);
        }
    }

    pub fn command(&mut self, wanted: &Command) -> Result<(), Refusal> {
        let changes = command(&self.rollout, &self.hosts, wanted, self.now)?;
        apply_all(&mut self.rollout, &mut self.hosts, &changes, self.now);
        Ok(())
    }

    pub fn refusal(&mut self, wanted: &Command) -> String {
        self.command(wanted).unwrap_err().to_string()
    }
}

/// A resume without new limits.
pub const RESUME: Command = Command::Resume { max_failed: None, max_absent: None };

pub fn described(changes: &[Change]) -> String {
    let text = |change: &Change| match change {
        Change::OpenWave { wave, hosts, budget } => {
            let sign = |repair| if repair { "!" } else { "" };
            let ids: Vec<String> =
                hosts.iter().map(|it| format!(" {}{}", it.host, sign(it.repair))).collect();
            format!("wave {wave}:{} (budget {budget})", ids.concat())
        }
        Change::Good { host } => format!("{host} good"),
        Change::Fail { host, failure } => format!("{host} failed: {failure}"),
        Change::Healthy { host } => format!("{host} healthy"),
        Change::NotHealthy { host } => format!("{host} not healthy"),
        Change::Leave { host } => format!("{host} leaves"),
        Change::Return { host } => format!("{host} returns"),
        Change::BeginSoak => "soak".to_owned(),
        Change::AwaitHosts => "wait".to_owned(),
        Change::Halt { why } => format!("halt: {why}"),
        Change::Pause { why } => format!("pause: {why}"),
        Change::Succeed => "success".to_owned(),
        other => format!("{other:?}"),
    };
    changes.iter().map(text).collect::<Vec<_>>().join("; ")
}
