//! What an agent reports after its start, from its records: a result is not lost if the agent was
//! killed between the end of the script and the report.

use deploy_store::Digest;
use deploy_wire::fleet::{Phase, Reason, Report};

use crate::records::rollback_hold::RollbackHold;
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
    /// The end of the last script's output.
    pub output: String,
}

/// The state that the records have; `None` if nothing is deployed, or the result of the last script
/// is unknown.
pub fn derived(records: &Records) -> Option<Report> {
    let runs = records.deployed;
    if let Some(left) = &records.left {
        // Without a failure, the script runs again, and its result is reported then.
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
    let state = Report { phase: Phase::Healthy, runs, wants: runs, ..Report::default() };
    match &records.hold {
        Some(hold) if runs.is_some_and(|id| id.to_string() == hold.to) => Some(Report {
            phase: Phase::Held,
            wants: hold.from.parse().ok(),
            reason: Some(Reason::Operator),
            message: held_since(hold),
            ..state
        }),
        _ => Some(state),
    }
}

/// The message of the hold after a rollback.
pub fn held_since(hold: &RollbackHold) -> String {
    let RollbackHold { from, to, since, .. } = hold;
    format!("an operator rolled back from {from} to {to} on the host, {since:.0}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn state_is_that_of_the_records() {
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
        let held = Records { hold: Some(hold.clone()), ..deployed };
        let report = derived(&held).unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Held, Some(Reason::Operator)));
        assert_eq!((report.runs, report.wants), (Some(one), Some(two)));
        let unfinished = derived(&Records { deployed: Some(two), ..held }).unwrap();
        assert_eq!(unfinished.phase, Phase::Healthy);
    }
}
