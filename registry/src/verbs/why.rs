//! The verb `why` shows what happened to the deploys on a host.

use deploy_store::{ConfigurationName, Digest};
use deploy_wire::fleet::{HostName, Reason, Step};
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::fleet::Attempt;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::fleet_status::FleetQuery;

/// What happened on a host. Later versions may add fields, but never remove fields.
#[derive(Debug, Clone, Serialize)]
pub struct Why {
    /// The host.
    pub host: String,
    /// The configurations of the host.
    pub configurations: Vec<WhyOne>,
}

/// What happened to one configuration of a host.
#[derive(Debug, Clone, Serialize)]
pub struct WhyOne {
    /// The present status of the host.
    #[serde(flatten)]
    pub status: HostStatus,
    /// The last deploys of the configuration on this host, newest first.
    pub attempts: Vec<Tried>,
    /// The end of the deploy script's output in the last deploy.
    pub output: String,
}

/// One deploy.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// The number of the deploy among the deploys of this configuration on this host.
    pub number: u64,
    /// The id of the state that the host was to deploy.
    pub wants_hash: Option<Digest>,
    /// The last phase that the deploy reached.
    pub phase: &'static str,
    /// The reason for the failure, as one word.
    pub reason: Option<&'static str>,
    /// A readable description of the deploy's result.
    pub message: String,
    /// The exit code of the script or of the health check.
    pub exit_code: Option<i32>,
    /// The steps of the deploy with their times.
    pub steps: Vec<Step>,
    /// When the registry received the first report of the deploy.
    pub began: Timestamp,
    /// When the registry received the last report of the deploy.
    pub reported: Timestamp,
}

impl From<Attempt> for Tried {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            wants_hash: attempt.wants,
            phase: attempt.phase.word(),
            reason: attempt.reason.map(Reason::word),
            message: attempt.message,
            exit_code: attempt.exit_code,
            steps: attempt.steps,
            began: attempt.began,
            reported: attempt.reported,
        }
    }
}

impl Registry {
    /// What happened on a host. With `name`, only what happened to this configuration.
    pub async fn why(&self, host: &HostName, name: Option<&ConfigurationName>) -> Result<Why> {
        let row = self.catalog.host(host).await?;
        let mut configurations = Vec::new();
        for agent in self.catalog.agents_of(row.number).await? {
            if name.is_some_and(|name| name.as_str() != agent.configuration) {
                continue;
            }
            let Some(status) = self.status_on(host, &agent.configuration).await? else { continue };
            let name = agent.configuration.parse()?;
            let attempts = self.catalog.attempts(&name, row.number).await?;
            let output = match attempts.first().and_then(|last| last.output.as_ref()) {
                Some(digest) => self.catalog.output(digest).await?,
                None => String::new(),
            };
            let attempts = attempts.into_iter().map(Tried::from).collect();
            configurations.push(WhyOne { status, attempts, output });
        }
        if configurations.is_empty() {
            let text = match name {
                Some(name) => format!("host \"{host}\" has not reported on \"{name}\""),
                None => format!("host \"{host}\" has not reported on any configuration"),
            };
            return Err(Error::NotFound(text));
        }
        Ok(Why { host: host.to_string(), configurations })
    }

    async fn status_on(&self, host: &HostName, name: &str) -> Result<Option<HostStatus>> {
        let (name, only) = (Some(name.parse()?), Some(host.clone()));
        let query = FleetQuery { name, host: only, ..FleetQuery::default() };
        let fleet = match self.fleet_status(&query).await {
            // The configuration has been deleted since the host's last report.
            Err(Error::NotFound(_)) => return Ok(None),
            other => other?,
        };
        Ok(fleet.hosts.into_iter().find(|one| one.host == host.as_str()))
    }
}
