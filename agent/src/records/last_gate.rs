//! The last health gate, which `agent.json` keeps for `status`.

use deploy_store::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The last health gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastGate {
    /// Id of the configuration.
    pub id: String,
    /// The checks, as given.
    pub checks: Vec<String>,
    /// How far the gate is.
    pub result: GateResult,
    /// Why the gate failed.
    pub reason: Option<String>,
    /// What the agent did after the failure.
    pub action: Option<GateAction>,
    /// Why the rollback failed, if it did.
    pub rollback_error: Option<String>,
    /// Time of the result.
    pub since: Timestamp,
}

/// How far a gate is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateResult {
    /// It has not decided.
    #[default]
    Checking,
    /// Every check succeeded.
    Healthy,
    /// A check did not succeed.
    Failed,
}

/// What the agent did after a gate failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateAction {
    /// The previous configuration was deployed.
    RolledBack,
    /// The configuration is kept: there is no way back, or `-on-failure` is `hold`.
    Kept,
    /// The rollback failed, too, and the configuration is kept.
    RollbackFailed,
}

impl LastGate {
    /// A gate that begins.
    pub fn begins(id: Digest, checks: Vec<String>) -> Self {
        Self { id: id.to_string(), checks, since: Timestamp::now(), ..Self::default() }
    }

    /// The same gate, healthy now.
    #[must_use]
    pub fn healthy(self) -> Self {
        Self { result: GateResult::Healthy, since: Timestamp::now(), ..self }
    }

    /// The same gate, which failed for `reason`. `rollback_error` says why the rollback failed, too.
    #[must_use]
    pub fn failed(self, reason: &str, action: GateAction, rollback_error: Option<String>) -> Self {
        let (result, since) = (GateResult::Failed, Timestamp::now());
        let (reason, action) = (Some(reason.to_owned()), Some(action));
        Self { result, reason, action, rollback_error, since, ..self }
    }

    /// The result, for people.
    pub fn to_text(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        match (self.result, self.action) {
            (GateResult::Checking, _) => "checking".to_owned(),
            (GateResult::Healthy, _) => "healthy".to_owned(),
            (GateResult::Failed, Some(GateAction::RolledBack)) => {
                format!("failed: {reason}; rolled back")
            }
            (GateResult::Failed, Some(GateAction::RollbackFailed)) => {
                let err = self.rollback_error.as_deref().unwrap_or_default();
                format!("failed: {reason}; kept, because the rollback failed, too: {err}")
            }
            (GateResult::Failed, _) => format!("failed: {reason}; kept"),
        }
    }
}
