//! Defines the record of the last health gate, which `agent.json` keeps for `status`.

use deploy_store::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::{Failure, Unproven};

/// The record of the last health gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastGate {
    /// Id of the checked configuration.
    pub id: String,
    /// The checks, as given on the command line.
    pub checks: Vec<String>,
    /// The state of the gate.
    pub result: GateResult,
    /// Why the gate failed.
    pub reason: Option<String>,
    /// What the agent did after the failure.
    pub action: Option<GateAction>,
    /// Why the rollback failed; `None` if no rollback failed.
    pub rollback_error: Option<String>,
    /// Time of the result, or of the start while there is no result.
    pub since: Timestamp,
}

/// The state of a gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateResult {
    /// The gate has not decided.
    #[default]
    Checking,
    /// Every check succeeded.
    Healthy,
    /// At least one check did not succeed.
    Failed,
}

/// What the agent did after a gate failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateAction {
    /// The previous configuration was deployed again.
    RolledBack,
    /// The configuration is kept, because there is no configuration to return to or because
    /// `-on-failure` is `hold`.
    Kept,
    /// The rollback failed, so the configuration is kept.
    RollbackFailed,
}

impl LastGate {
    /// A gate that has just begun.
    pub fn begins(id: Digest, checks: Vec<String>) -> Self {
        Self { id: id.to_string(), checks, since: Timestamp::now(), ..Self::default() }
    }

    /// The record of the same gate after its success.
    #[must_use]
    pub fn healthy(self) -> Self {
        Self { result: GateResult::Healthy, since: Timestamp::now(), ..self }
    }

    /// The record of the same gate after its failure for `reason`. `rollback_error` is the reason
    /// why the rollback failed; `None` if no rollback failed.
    #[must_use]
    pub fn failed(self, reason: &str, action: GateAction, rollback_error: Option<String>) -> Self {
        let (result, since) = (GateResult::Failed, Timestamp::now());
        let (reason, action) = (Some(reason.to_owned()), Some(action));
        Self { result, reason, action, rollback_error, since, ..self }
    }

    /// If the agent was killed before it could write the result to `agent.json`, adds the result
    /// from the other records.
    #[must_use]
    pub fn completed(self, hold: Option<&RollbackHold>, record: Option<&Unproven>) -> Self {
        if self.result != GateResult::Checking {
            return self;
        }
        let hold = hold.filter(|hold| hold.from == self.id);
        let reason = hold.and_then(|hold| hold.reason.as_ref().map(|reason| (reason, hold.since)));
        let failure =
            record.filter(|record| record.id == self.id).and_then(|it| it.failure.as_ref());
        match (failure, reason) {
            (Some(Failure { reason, way_back, at }), _) => {
                let failed = way_back.is_some();
                let action = if failed { GateAction::RollbackFailed } else { GateAction::Kept };
                Self { since: *at, ..self.failed(reason, action, way_back.clone()) }
            }
            (None, Some((reason, since))) => {
                Self { since, ..self.failed(reason, GateAction::RolledBack, None) }
            }
            (None, None) => self,
        }
    }

    /// Returns the result as text for people.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_result_of_a_killed_agent_is_read_from_the_other_records() {
        let [bad, old] = ["bad", "old"].map(|text| Digest::of(text.as_bytes()));
        let since = Timestamp::UNIX_EPOCH;
        let gate = LastGate::begins(bad, vec!["registry".to_owned()]);
        assert_eq!(gate.clone().completed(None, Some(&Unproven::new(bad, None))), gate);
        let hold = RollbackHold::new(bad, old, None, since);
        assert_eq!(gate.clone().completed(Some(&hold), None), gate, "an operator rolled back");
        let hold = hold.because("why".to_owned());
        let done = gate.clone().completed(Some(&hold), None);
        assert_eq!((done.to_text().as_str(), done.since), ("failed: why; rolled back", since));
        let failure = |way_back| Some(Failure { reason: "no".to_owned(), way_back, at: since });
        let kept = Unproven { failure: failure(None), ..Unproven::new(bad, None) };
        let done = gate.clone().completed(None, Some(&kept));
        assert_eq!((done.to_text().as_str(), done.since), ("failed: no; kept", since));
        let stuck = Unproven { failure: failure(Some("x".to_owned())), ..kept.clone() };
        let done = gate.clone().completed(None, Some(&stuck));
        assert_eq!(done.to_text(), "failed: no; kept, because the rollback failed, too: x");
        assert_eq!(done.clone().completed(Some(&hold), None), done);
        let other = LastGate::begins(old, Vec::new());
        assert_eq!(other.clone().completed(Some(&hold), Some(&kept)), other);
        assert_eq!(gate.healthy().to_text(), "healthy");
    }
}
