//! Derives the first report after an agent's start from the records in the agent's directory. If
//! the agent was killed after the end of the script and before the report of the result, the
//! derived report contains the result.

use deploy_store::Digest;
use deploy_wire::fleet::{Phase, Reason, Report};

use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::Unproven;
use crate::records::unsettled::Unsettled;

/// The records of an agent.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Id of the deployed configuration.
    pub deployed: Option<Digest>,
    /// The record of the last script, if that script did not succeed.
    pub left: Option<Unsettled>,
    /// The hold after a rollback.
    pub hold: Option<RollbackHold>,
    /// The configuration that has not proven healthy, if the agent has checks.
    pub unproven: Option<Unproven>,
    /// The end of the last script's output.
    pub output: String,
}

/// The report that follows from the records; `None` if the result of the last script is unknown, or
/// if no script has failed and nothing is deployed.
pub fn derived(records: &Records) -> Option<Report> {
    let runs = records.deployed;
    let unproven = records.unproven.as_ref().filter(|unproven| unproven.is_of(runs));
    if let Some(rejected) = unproven.filter(|unproven| unproven.is_rejected()) {
        // If the rollback failed, too, there may also be a record of the rollback's script. That
        // record adds no information.
        let (phase, reason) = (Phase::Failed, Some(Reason::Health));
        let message = rejected.to_text();
        return Some(Report { phase, runs, wants: runs, reason, message, ..Report::default() });
    }
    if let Some(left) = &records.left {
        // If no failure is recorded, the script runs again, and the agent reports the result of the
        // new run.
        left.failed?;
        return Some(Report {
            phase: Phase::Failed,
            runs,
            wants: left.target(),
            reason: Some(Reason::Script),
            message: left.error.clone().unwrap_or_default(),
            exit_code: left.exit_code,
            output: records.output.clone(),
            ..Report::default()
        });
    }
    let runs = Some(runs?);
    let phase = if unproven.is_some() { Phase::Checking } else { Phase::Healthy };
    let state = Report { phase, runs, wants: runs, ..Report::default() };
    let hold = records.hold.as_ref();
    let Some(hold) = hold.filter(|hold| runs.is_some_and(|id| id.to_string() == hold.to)) else {
        return Some(state);
    };
    let wants = hold.from.parse().ok();
    let (phase, reason, message) = match &hold.reason {
        Some(reason) => (Phase::RolledBack, Reason::Health, reason.clone()),
        None => (Phase::Held, Reason::Operator, held_since(hold)),
    };
    Some(Report { phase, wants, reason: Some(reason), message, ..state })
}

/// The message about the hold after an operator's rollback.
pub fn held_since(hold: &RollbackHold) -> String {
    let RollbackHold { from, to, since, .. } = hold;
    format!("an operator rolled back from {from} to {to} on the host at {since:.0}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::records::unproven::Failure;

    #[test]
    fn first_report_follows_from_the_records() {
        let [one, two] = ["1", "2"].map(|text| Digest::of(text.as_bytes()));
        assert_eq!(derived(&Records::default()), None);
        let deployed = Records { deployed: Some(one), ..Records::default() };
        let healthy = derived(&deployed).unwrap();
        assert_eq!(healthy.phase, Phase::Healthy);
        assert_eq!((healthy.runs, healthy.wants), (Some(one), Some(one)));

        let left = Unsettled { id: two.to_string(), ..Unsettled::default() };
        let running = Records { left: Some(left.clone()), ..deployed.clone() };
        assert_eq!(derived(&running), None, "the script runs again");
        let failed = Some(Timestamp::UNIX_EPOCH);
        let left = Unsettled { failed, error: Some("no".to_owned()), exit_code: Some(3), ..left };
        let output = "the end\n".to_owned();
        let failed = Records { left: Some(left), output, ..deployed.clone() };
        let report = derived(&failed).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Failed, Some(Reason::Script)));
        assert_eq!((report.runs, report.wants), (Some(one), Some(two)));
        assert_eq!((&*report.message, &*report.output), ("no", "the end\n"));
        assert_eq!(report.exit_code, Some(3));
        let first = derived(&Records { deployed: None, ..failed }).unwrap();
        assert_eq!((first.runs, first.phase), (None, Phase::Failed));

        let hold = RollbackHold::new(two, one, None, Timestamp::UNIX_EPOCH);
        let after_rollback = Records { hold: Some(hold.clone()), ..deployed };
        let report = derived(&after_rollback).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Held, Some(Reason::Operator)));
        assert_eq!((report.runs, report.wants), (Some(one), Some(two)));
        let unfinished = derived(&Records { deployed: Some(two), ..after_rollback }).unwrap();
        assert_eq!(unfinished.phase, Phase::Healthy);
    }

    #[test]
    fn first_report_has_the_result_of_the_health_gate() {
        let [one, two] = ["1", "2"].map(|text| Digest::of(text.as_bytes()));
        let pending = Unproven::new(two, Some(one));
        let records = |deployed, unproven| Records {
            deployed: Some(deployed),
            unproven: Some(unproven),
            ..Records::default()
        };
        let report = derived(&records(two, pending.clone())).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Checking, None));
        assert_eq!((report.runs, report.wants), (Some(two), Some(two)));
        let other = derived(&records(one, pending.clone())).unwrap();
        assert_eq!(other.phase, Phase::Healthy, "the state file was not written");

        // `begun`: the agent was killed during the rollback. `back`: the agent was killed after the
        // rollback.
        let since = Timestamp::UNIX_EPOCH;
        let hold = RollbackHold::new(two, one, None, since).because("no answer".to_owned());
        let begun = Records { hold: Some(hold.clone()), ..records(two, pending.clone()) };
        assert_eq!(derived(&begun).unwrap().phase, Phase::Checking);
        let back = Records { deployed: Some(one), hold: Some(hold), ..Records::default() };
        let report = derived(&back).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::RolledBack, Some(Reason::Health)));
        assert_eq!((report.runs, report.wants), (Some(one), Some(two)));
        assert_eq!(report.message, "no answer");

        let failure = Failure { reason: "no answer".to_owned(), way_back: None, at: since };
        let rejected = Unproven { failure: Some(failure), ..pending };
        let left = Unsettled { failed: Some(since), ..Unsettled::default() };
        let kept = Records { left: Some(left), ..records(two, rejected) };
        let report = derived(&kept).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Failed, Some(Reason::Health)));
        assert_eq!((report.runs, report.wants), (Some(two), Some(two)));
        assert_eq!(report.message, format!("no answer; {two} is kept"));
    }
}
