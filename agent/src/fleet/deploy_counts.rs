//! Counts deploys by their results, for metrics.

use deploy_wire::fleet::{Phase, Step};

/// The numbers of an agent's deploys since the start of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeployCounts {
    /// Number of deploys that succeeded.
    pub healthy: u64,
    /// Number of deploys that failed.
    pub failed: u64,
    /// Number of deploys after which the agent returned to the previous configuration.
    pub rolled_back: u64,
    /// The steps of the last deploy that ended.
    pub steps: Vec<Step>,
}

impl DeployCounts {
    /// Counts a deploy that ended with `phase`.
    pub fn ended(&mut self, phase: Phase, steps: &[Step]) {
        match phase {
            Phase::Healthy => self.healthy += 1,
            Phase::RolledBack => self.rolled_back += 1,
            _ => self.failed += 1,
        }
        self.steps = steps.to_vec();
    }
}
