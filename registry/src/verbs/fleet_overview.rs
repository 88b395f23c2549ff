//! Reads the fleet and its active rollouts at one moment, for the page.

use deploy_store::ConfigurationName;
use jiff::Timestamp;

use crate::catalog::fleet::{FleetSnapshot, Scope};
use crate::error::Result;
use crate::registry::Registry;
use crate::verbs::fleet_counts::Seen;
use crate::verbs::fleet_document::{ConfigurationStatus, HostStatus};
use crate::verbs::fleet_status::CountedFleet;
use crate::verbs::rollout_status::{self, RolloutStatus};

/// The fleet and its active rollouts at one moment.
#[derive(Debug, Clone)]
pub struct FleetOverview {
    /// Each configuration and its counts, sorted by name.
    pub configurations: Vec<ConfigurationStatus>,
    /// The agents that have a row in the catalogue.
    pub agents: Vec<Seen>,
    /// The agents that poll and have never reported.
    pub polling: Vec<HostStatus>,
    /// The active rollouts, sorted by the name of the configuration.
    pub rollouts: Vec<RolloutStatus>,
}

impl Registry {
    /// The fleet and its active rollouts; with `name`, only the hosts and the rollout of this
    /// configuration.
    pub async fn fleet_overview(&self, name: Option<&ConfigurationName>) -> Result<FleetOverview> {
        let fleet = self.catalog.fleet_snapshot(Scope { name, host: None }).await?;
        let rollouts = self.active_rollouts(&fleet);
        let CountedFleet { configurations, agents, polling } = self.counted(fleet, None);
        Ok(FleetOverview { configurations, agents, polling, rollouts })
    }

    fn active_rollouts(&self, fleet: &FleetSnapshot) -> Vec<RolloutStatus> {
        let now = Timestamp::now();
        let active = fleet.rollouts.values().map(|active| {
            let found = self.hosts_in(fleet, &active.row, &active.members, now);
            rollout_status::status(&active.row, &active.waves, &found.hosts)
        });
        let mut active: Vec<RolloutStatus> = active.collect();
        active.sort_by(|one, other| one.configuration.cmp(&other.configuration));
        active
    }
}
