//! Makes the answer to `sync`, which says how the poll of the registry ended.

use deploy_store::Digest;
use deploy_wire::exit;
use serde::{Deserialize, Serialize};

use crate::control::exit_codes;
use crate::control::protocol::Answer;
use crate::cycle::Outcome;
use crate::error::{Error, Result};
use crate::records::rollback_hold::RollbackHold;
use crate::records::unsettled::Unsettled;

/// How a poll of the registry ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// `up_to_date`, `switched`, `held`, `rolled_back`, `rejected` or `failed`.
    pub outcome: String,
    /// Id of the registry's configuration, if the registry answered.
    pub id: Option<String>,
    /// Why the registry's configuration is not deployed or not healthy; `None` for `up_to_date` and
    /// `switched`.
    pub reason: Option<String>,
    /// Id of the configuration for which the last script ran, if that script did not succeed. The
    /// effects of such a script are unknown.
    #[serde(default)]
    pub unsettled: Option<String>,
}

impl Synced {
    /// Returns the result as text for people.
    pub fn to_text(&self) -> String {
        let id = self.id.as_deref().unwrap_or("unknown");
        let text = match (&*self.outcome, &self.reason) {
            ("up_to_date", _) => format!("up to date: {id}"),
            ("switched", _) => format!("switched to {id}"),
            (_, Some(reason)) if self.id.is_none() => {
                format!(
                    "the registry's configuration is unknown: {reason}; the deployed \
                         configuration stays"
                )
            }
            ("rejected", Some(reason)) => format!("not healthy: {id}: {reason}"),
            (_, Some(reason)) => format!("not deployed: {id}: {reason}"),
            (outcome, None) => format!("{outcome}: {id}"),
        };
        let unsettled = self.unsettled.as_ref().map_or_else(String::new, |id| {
            format!("unsettled: the script did not succeed for {id}, and its effects are unknown\n")
        });
        text + "\n" + &unsettled
    }
}

/// Whether this error means that the registry's configuration is unknown.
fn is_unknown(err: &Error) -> bool {
    matches!(
        err,
        Error::Registry(_) | Error::UnknownConfiguration { .. } | Error::BadConfiguration { .. }
    )
}

/// Makes the answer for a cycle that ended with the result `ended`. The exit code is 0 only if the
/// registry's configuration is deployed.
pub fn answer(
    ended: &Result<Outcome>,
    offered: Option<Digest>,
    waits: Option<String>,
    hold: Option<RollbackHold>,
    left: Option<&Unsettled>,
) -> Answer {
    let synced = |outcome: &str, reason| Synced {
        outcome: outcome.to_owned(),
        id: offered.map(|id| id.to_string()),
        reason,
        unsettled: left.map(|left| left.id.clone()),
    };
    match ended {
        Ok(Outcome::UpToDate) => Answer::of(exit::OK, &synced("up_to_date", None)),
        Ok(Outcome::Switched) => Answer::of(exit::OK, &synced("switched", None)),
        Ok(Outcome::Held) => Answer::of(exit::FAILED, &synced("held", waits)),
        Ok(Outcome::Rejected) => Answer::of(exit::FAILED, &synced("rejected", waits)),
        Ok(Outcome::HostHeld) => {
            let reason =
                "an operator holds this host; run host release at the registry to end the hold";
            Answer::of(exit::FAILED, &synced("held", Some(reason.to_owned())))
        }
        Ok(Outcome::Superseded) => {
            let reason = "a newer configuration arrived, and is deployed next".to_owned();
            Answer::of(exit::FAILED, &synced("held", Some(reason)))
        }
        Ok(Outcome::Staged) => {
            let reason = "the root is ready, and the script waits for the maintenance window of \
                          the host's group";
            Answer::of(exit::FAILED, &synced("held", Some(reason.to_owned())))
        }
        Ok(Outcome::Undecided) => {
            let reason = "the health gate has not decided".to_owned();
            Answer::of(exit::FAILED, &synced("held", Some(reason)))
        }
        Ok(Outcome::RolledBack) => {
            let to = hold.as_ref().map_or_else(String::new, |hold| format!(" to {}", hold.to));
            let why = hold.and_then(|hold| hold.reason).map(|reason| format!("{reason}; "));
            let why = why.unwrap_or_default();
            let reason = format!(
                "{why}the registry's configuration is on hold after a rollback{to}; deploy-agent \
                 rollback -release ends the hold"
            );
            Answer::of(exit::FAILED, &synced("rolled_back", Some(reason)))
        }
        Err(err) => {
            // If this poll did not find out the registry's configuration, `offered` comes from an
            // earlier poll, and may be the deployed configuration.
            let id = offered.filter(|_| !is_unknown(err)).map(|id| id.to_string());
            let failed = synced("failed", Some(err.to_string()));
            Answer::of(exit_codes::of(err), &Synced { id, ..failed })
        }
    }
}
